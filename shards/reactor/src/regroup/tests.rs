use std::collections::BTreeMap;

use bytes::Bytes;
use log::wal::{Checkpoint, Entry};
use types::{LogIndex, Term};

use super::*;

fn shard_of(shards: u16) -> impl Fn(GroupId) -> ShardId {
    move |group| ShardId((group.0 % u64::from(shards)) as u16)
}

fn group(number: u64, entry_bytes: usize) -> RecoveredGroup {
    let checkpoint = number.is_multiple_of(2).then(|| Checkpoint {
        index: LogIndex(10),
        term: Term(1),
        state: Bytes::from(format!("state of {number}")),
    });
    let first = if checkpoint.is_some() { 11 } else { 1 };
    let entries: Vec<_> = (first..first + 6)
        .map(|index| Entry {
            term: Term(2),
            index: LogIndex(index),
            entry_type: (index % 2) as u8,
            context: Bytes::from(vec![number as u8; 3]),
            data: Bytes::from(vec![index as u8; entry_bytes]),
        })
        .collect();
    let commit = LogIndex(first + 2);
    RecoveredGroup { term: Term(3), vote: number, commit, checkpoint, entries, state_file: Some(1) }
}

/// The groups of all WALs, without where they are kept.
fn all_groups(data_dir: &Path, shards: u16) -> BTreeMap<GroupId, RecoveredGroup> {
    let mut groups = BTreeMap::new();
    for shard in 0..shards {
        let recovered = recover_wal(&shard_folder(&wal_folder(data_dir), shard), shard).expect("recovered");
        for (group, mut content) in recovered.groups {
            assert_eq!(shard_of(shards)(group), ShardId(shard), "group {group} is where it belongs");
            content.state_file = Some(1);
            groups.insert(group, content);
        }
    }
    groups
}

/// A data directory with three groups in `shards` WALs: few, since each WAL with a group takes a whole file.
fn filled(data_dir: &Path, shards: u16) -> BTreeMap<GroupId, RecoveredGroup> {
    prepare_wals(data_dir, shards, &shard_of(shards)).expect("fresh");
    let groups: BTreeMap<_, _> = [1, 2, 4].map(|number| (GroupId(number), group(number, 50))).into();
    write(data_dir, shards, &groups);
    groups
}

fn write(data_dir: &Path, shards: u16, groups: &BTreeMap<GroupId, RecoveredGroup>) {
    for shard in 0..shards {
        let folder = shard_folder(&wal_folder(data_dir), shard);
        fs::remove_dir(&folder).expect("empty");
        let mut writer = WalWriter::create(folder).expect("created");
        for (group, content) in groups.iter().filter(|(group, _)| shard_of(shards)(**group) == ShardId(shard))
        {
            writer.write_group(*group, content.clone()).expect("written");
        }
        writer.finish().expect("written");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("listed")
        .map(|entry| entry.expect("listed").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn groups_move_with_the_number_of_shards() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let groups = filled(dir.path(), 3);
    for shards in [3, 1, 4, 2, 3] {
        prepare_wals(dir.path(), shards, &shard_of(shards)).expect("regrouped");
        assert_eq!(all_groups(dir.path(), shards), groups, "{shards} shards");
        assert_eq!(names(dir.path()), ["wal"]);
    }
}

#[test]
fn large_groups_take_several_flushes_and_files() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    prepare_wals(dir.path(), 2, &shard_of(2)).expect("fresh");
    let groups: BTreeMap<_, _> = (0..5).map(|number| (GroupId(number), group(number, 3_000_000))).collect();
    write(dir.path(), 2, &groups);
    prepare_wals(dir.path(), 1, &shard_of(1)).expect("regrouped");
    assert!(all_groups(dir.path(), 1) == groups);
    let files = names(&shard_folder(&wal_folder(dir.path()), 0));
    assert_eq!(files, ["0000000000000001.wal", "0000000000000002.wal", "0000000000000003.wal"]);
    for file in files {
        let path = shard_folder(&wal_folder(dir.path()), 0).join(file);
        assert_eq!(fs::metadata(path).expect("there").len(), WAL_FILE_BYTES);
    }
}

/// A crash after each step that [`prepare_wals`] makes from three shards to two.
#[test]
fn a_crash_at_any_step_is_taken_up() {
    type Step = fn(&Folders) -> io::Result<()>;
    let make: Step = |folders| {
        folders.make(2, &shard_of(2), 3).expect("made");
        Ok(())
    };
    let uncount: Step = |folders| fs::remove_file(folders.new.join(COUNT_FILE));
    let lose_files: Step = |folders| fs::remove_dir_all(shard_folder(&folders.new, 1));
    let retire: Step = |folders| fs::rename(&folders.current, &folders.old);
    let promote: Step = |folders| fs::rename(&folders.new, &folders.current);
    let half_remove: Step = |folders| fs::remove_dir_all(shard_folder(&folders.old, 0));
    let cases: [(&str, &[Step]); 7] = [
        ("before anything", &[]),
        ("while files are written", &[make, uncount, lose_files]),
        ("before the count is there", &[make, uncount]),
        ("when the new set is complete", &[make]),
        ("between the renames", &[make, retire]),
        ("before the old set is removed", &[make, retire, promote]),
        ("while the old set is removed", &[make, retire, promote, half_remove]),
    ];
    for (case, steps) in cases {
        // The node may come back with yet another number of shards.
        for shards in [2, 5] {
            let dir = tempfile::tempdir().expect("a folder for the test");
            let groups = filled(dir.path(), 3);
            let folders = Folders::of(dir.path());
            for step in steps {
                step(&folders).unwrap_or_else(|error| panic!("{case}: {error}"));
            }
            prepare_wals(dir.path(), shards, &shard_of(shards))
                .unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(all_groups(dir.path(), shards), groups, "{case}, then {shards} shards");
            assert_eq!(names(dir.path()), ["wal"], "{case}, then {shards} shards");
        }
    }
}

#[test]
fn a_crash_of_the_first_start_is_taken_up() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let folders = Folders::of(dir.path());
    folders.make(2, &shard_of(2), 0).expect("made");
    fs::remove_file(folders.new.join(COUNT_FILE)).expect("removed");
    prepare_wals(dir.path(), 4, &shard_of(4)).expect("fresh");
    assert_eq!(names(&wal_folder(dir.path())), ["shard-0", "shard-1", "shard-2", "shard-3", "shards"]);
}

#[test]
fn what_could_be_lost_data_is_refused() {
    type Damage = fn(&Path) -> io::Result<()>;
    let cases: [(Damage, &str); 6] = [
        (|dir| fs::remove_dir_all(dir.join("wal/shard-2")), "shard-2 of 3 is missing"),
        (|dir| fs::remove_file(dir.join("wal/shards")), "the file shards cannot be read"),
        (|dir| fs::write(dir.join("wal/shards"), "many"), "the file shards holds \"many\""),
        (|dir| fs::create_dir(dir.join("wal/shard-3")), "shard-3 does not belong to 3 shards"),
        (|dir| fs::rename(dir.join("wal"), dir.join("wal.old")), "wal.old is there, but neither wal nor"),
        (
            |dir| {
                fs::remove_dir_all(dir.join("wal"))?;
                fs::create_dir_all(dir.join("groups/5"))
            },
            "there are groups, but the folder wal is missing",
        ),
    ];
    for (damage, why) in cases {
        let dir = tempfile::tempdir().expect("a folder for the test");
        filled(dir.path(), 3);
        damage(dir.path()).expect("damaged");
        for shards in [3, 2] {
            let refused = prepare_wals(dir.path(), shards, &shard_of(shards)).expect_err(why).to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}

#[test]
fn a_group_in_two_wals_is_refused() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let groups = filled(dir.path(), 3);
    let folder = shard_folder(&wal_folder(dir.path()), 0);
    fs::remove_dir_all(&folder).expect("removed");
    let mut writer = WalWriter::create(folder).expect("created");
    writer.write_group(GroupId(1), groups[&GroupId(1)].clone()).expect("written");
    writer.finish().expect("written");
    let refused = prepare_wals(dir.path(), 2, &shard_of(2)).expect_err("group 1 is there twice").to_string();
    assert!(refused.contains("group 1 stands in two WALs"), "{refused}");
}
