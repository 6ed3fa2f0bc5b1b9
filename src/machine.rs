//! Which cores there are, and how shards are laid out on them.

use std::collections::BTreeSet;

use types::ShardLayout;

/// A list of processors, as in `2-15` or `0,2,4-7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(BTreeSet<usize>);

/// Processor numbers beyond what Linux can be built for.
const CPU_MAX: usize = 8191;

impl CpuList {
    /// Reads a list.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<CpuList, String> {
        let wrong = || format!("--cpus {text:?} is not a list of cores such as 2-15 or 0,2,4-7");
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<usize>().ok().filter(|cpu| *cpu <= CPU_MAX);
            let (Some(first), Some(last)) = (number(first), number(last)) else { return Err(wrong()) };
            if first > last {
                return Err(wrong());
            }
            cpus.extend(first..=last);
        }
        Ok(CpuList(cpus))
    }
}

/// What this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The processors of the affinity mask, ascending, at least one.
    pub cpus: Vec<usize>,
    /// How many of them it may keep busy; fewer where a control group limits its time.
    pub parallelism: usize,
}

impl Machine {
    /// Asks the system.
    pub fn detect() -> Machine {
        let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
        let cpus = affinity_mask().unwrap_or_else(|| (0..parallelism).collect());
        Machine { parallelism: parallelism.min(cpus.len()), cpus }
    }
}

/// The processors that this thread may run on; `None` when the system does not say.
fn affinity_mask() -> Option<Vec<usize>> {
    // SAFETY: a `cpu_set_t` is an array of integers, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `cpu_set_t` of the size given, and the call keeps nothing of it.
    let outcome = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    if outcome != 0 {
        return None;
    }
    let cpus_max = 8 * size_of::<libc::cpu_set_t>();
    // SAFETY: `CPU_ISSET` reads one bit of the set, and every number is below its size in bits.
    let cpus: Vec<usize> = (0..cpus_max).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect();
    (!cpus.is_empty()).then_some(cpus)
}

/// How many shards there are and where they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Which shard hosts what.
    pub shards: ShardLayout,
    /// The core of each shard; `None` when the system places them.
    pub cpus: Option<Vec<usize>>,
    /// Why the shards are not pinned although nobody asked for that.
    pub unpinned_because: Option<String>,
}

/// What the options say about shards and cores.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayoutOptions<'a> {
    /// `--node-id`.
    pub node_id: i32,
    /// `--shards`.
    pub data_shards: Option<u16>,
    /// `--cpus`.
    pub cpus: Option<&'a CpuList>,
    /// `--no-pin`.
    pub no_pin: bool,
}

/// Lays out shards: with three usable cores or more the metadata group has one to itself. They take cores from the last one down,
/// since the first is where a system puts what has no place of its own; each node begins one further down than the one before it, so that
/// nodes on one machine do not crowd on a core while another one is free.
///
/// # Errors
///
/// When `--cpus` names a core that the process may not run on, in words.
pub fn plan_layout(machine: &Machine, options: LayoutOptions<'_>) -> Result<Layout, String> {
    assert!(!machine.cpus.is_empty(), "a process runs somewhere");
    let (cpus, usable) = match options.cpus {
        Some(CpuList(chosen)) => {
            if let Some(missing) = chosen.iter().find(|cpu| !machine.cpus.contains(cpu)) {
                return Err(format!(
                    "--cpus names core {missing}, but this process may run only on {:?}",
                    machine.cpus
                ));
            }
            (chosen.iter().copied().collect(), chosen.len())
        }
        None => (machine.cpus.clone(), machine.parallelism.max(1)),
    };
    let default_shards = u16::try_from(usable - 1).unwrap_or(u16::MAX).clamp(1, crate::options::SHARDS_MAX);
    let shards = ShardLayout::new(options.data_shards.unwrap_or(default_shards), usable >= 3);
    let executors = usize::from(shards.shards());
    let unpinned_because = if options.no_pin {
        None
    } else if executors > usable {
        Some(format!("{executors} shards share {usable} usable cores"))
    } else if usable < cpus.len() {
        Some(format!("a control group limits the process to {usable} of {} cores", cpus.len()))
    } else {
        None
    };
    let is_pinned = !options.no_pin && unpinned_because.is_none();
    let skipped = usize::try_from(options.node_id - 1).unwrap_or(0) % cpus.len();
    let downwards = cpus.iter().rev().cycle().skip(skipped);
    let cpus = is_pinned.then(|| downwards.take(executors).copied().collect());
    Ok(Layout { shards, cpus, unpinned_because })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[test]
    fn cpu_lists() {
        let parse = |text: &str| CpuList::parse(text).map(|list| list.0.into_iter().collect::<Vec<_>>());
        assert_eq!(parse("3"), Ok(vec![3]));
        assert_eq!(parse("2-5"), Ok(vec![2, 3, 4, 5]));
        assert_eq!(parse("0, 2,4-6,5"), Ok(vec![0, 2, 4, 5, 6]));
        for wrong in ["", "a", "5-2", "1-", "-1", "1,,2", "1-2-3", "99999"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn this_machine_has_cores() {
        let machine = Machine::detect();
        assert!((1..=machine.cpus.len()).contains(&machine.parallelism));
    }

    fn check(cpus: usize, parallelism: usize, options: LayoutOptions<'_>, expected: Expect) {
        let machine = Machine { cpus: (0..cpus).collect(), parallelism };
        let outcome = match plan_layout(&machine, options) {
            Err(why) => why,
            Ok(Layout { shards, cpus, unpinned_because }) => {
                let apart = shards.shard_of(types::GroupId(1)).0 > 0
                    && shards == ShardLayout::new(shards.shards() - 1, true);
                let metadata = if apart { "metadata apart" } else { "metadata shared" };
                format!("{} shards, {metadata}, on {cpus:?}, {unpinned_because:?}", shards.shards())
            }
        };
        expected.assert_eq(&outcome);
    }

    #[test]
    fn layouts() {
        let default = LayoutOptions::default();
        check(1, 1, default, expect!["1 shards, metadata shared, on Some([0]), None"]);
        check(2, 2, default, expect!["1 shards, metadata shared, on Some([1]), None"]);
        for (node_id, core) in [(0, 1), (1, 1), (2, 0), (3, 1)] {
            let options = LayoutOptions { node_id, ..default };
            let layout = plan_layout(&Machine { cpus: vec![0, 1], parallelism: 2 }, options);
            assert_eq!(layout.expect("it fits").cpus, Some(vec![core]), "node {node_id}");
        }
        check(3, 3, default, expect!["3 shards, metadata apart, on Some([2, 1, 0]), None"]);
        check(8, 8, default, expect!["8 shards, metadata apart, on Some([7, 6, 5, 4, 3, 2, 1, 0]), None"]);
        check(
            64,
            2,
            default,
            expect![[
                r#"1 shards, metadata shared, on None, Some("a control group limits the process to 2 of 64 cores")"#
            ]],
        );
        check(
            8,
            8,
            LayoutOptions { data_shards: Some(8), ..default },
            expect![[r#"9 shards, metadata apart, on None, Some("9 shards share 8 usable cores")"#]],
        );
        check(
            8,
            8,
            LayoutOptions { data_shards: Some(2), ..default },
            expect!["3 shards, metadata apart, on Some([7, 6, 5]), None"],
        );
        check(
            2,
            2,
            LayoutOptions { data_shards: Some(5), no_pin: true, ..default },
            expect!["5 shards, metadata shared, on None, None"],
        );
        let list = CpuList::parse("2-4").expect("valid");
        check(
            8,
            2,
            LayoutOptions { cpus: Some(&list), ..default },
            expect!["3 shards, metadata apart, on Some([4, 3, 2]), None"],
        );
        check(
            4,
            4,
            LayoutOptions { cpus: Some(&list), ..default },
            expect!["--cpus names core 4, but this process may run only on [0, 1, 2, 3]"],
        );
    }
}
