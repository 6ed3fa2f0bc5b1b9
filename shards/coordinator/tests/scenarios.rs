//! Sequences of requests, each with everything that the coordinator does about them.

mod world;

use coordinator::GroupConfig;
use expect_test::{Expect, expect};
use world::World;

fn check(script: &str, expected: Expect) {
    check_with(GroupConfig::default(), script, expected);
}

fn check_with(config: GroupConfig, script: &str, expected: Expect) {
    let mut world = World::new(config);
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        world.output.push_str(line);
        world.output.push('\n');
        world.step(line);
    }
    expected.assert_eq(&world.output);
}

/// Two members in a stable group, `A` leading.
const STABLE: &str = "
    join A v=3
    join B v=3
    tick 6000
    sync A assign=A:a,B:b
    sync B
";

fn check_stable(script: &str, expected: Expect) {
    let mut world = World::new(GroupConfig::default());
    for line in STABLE.lines().map(str::trim).filter(|line| !line.is_empty()) {
        world.step(line);
    }
    world.output.clear();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        world.output.push_str(line);
        world.output.push('\n');
        world.step(line);
    }
    expected.assert_eq(&world.output);
}

#[test]
fn first_join_waits_for_more_members() {
    check(
        "join A
         join A
         tick 2999
         describe
         tick 1
         describe
         heartbeat A
         sync A assign=A:all
         describe
         heartbeat A",
        expect![[r#"
            join A
              A <- join A#1: MemberIdRequired
            join A
            tick 2999
            describe
               <- describe: None PreparingRebalance consumer/ [A#1/A=b""]
            tick 1
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1]
            describe
               <- describe: None CompletingRebalance consumer/ [A#1/A=b""]
            heartbeat A
              A <- heartbeat: None
            sync A assign=A:all
              append group(g)
              A <- sync: consumer/range b"all"
            describe
               <- describe: None Stable consumer/range [A#1/A=b"all"]
            heartbeat A
              A <- heartbeat: None
        "#]],
    );
}

#[test]
fn each_member_that_comes_extends_the_initial_delay_up_to_the_rebalance_timeout() {
    check(
        "join A v=3 rebalance=7000
         tick 2000
         join B v=3 rebalance=7000
         tick 1000
         tick 2000
         join C v=3 rebalance=7000
         tick 1000
         tick 1000",
        expect![[r#"
            join A v=3 rebalance=7000
            tick 2000
            join B v=3 rebalance=7000
            tick 1000
            tick 2000
            join C v=3 rebalance=7000
            tick 1000
            tick 1000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1 B#1 C#1]
              B <- join B#1: generation 1 consumer/range leader A#1 members []
              C <- join C#1: generation 1 consumer/range leader A#1 members []
        "#]],
    );
}

#[test]
fn a_second_member_makes_the_first_rejoin() {
    check(
        "join A v=3
         tick 3000
         sync A assign=A:all
         join B v=3
         heartbeat A
         sync A
         join A
         sync B
         describe
         sync A assign=A:a,B:b
         describe
         list",
        expect![[r#"
            join A v=3
            tick 3000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1]
            sync A assign=A:all
              append group(g)
              A <- sync: consumer/range b"all"
            join B v=3
            heartbeat A
              A <- heartbeat: RebalanceInProgress
            sync A
              A <- sync: RebalanceInProgress
            join A
              A <- join A#1: generation 2 consumer/range leader A#1 members [A#1 B#1]
              B <- join B#1: generation 2 consumer/range leader A#1 members []
            sync B
            describe
               <- describe: None CompletingRebalance consumer/ [A#1/A=b"all" B#1/B=b""]
            sync A assign=A:a,B:b
              append group(g)
              A <- sync: consumer/range b"a"
              B <- sync: consumer/range b"b"
            describe
               <- describe: None Stable consumer/range [A#1/A=b"a" B#1/B=b"b"]
            list
               <- list: None [g:Stable:consumer:classic]
        "#]],
    );
}

#[test]
fn members_that_do_not_rejoin_in_time_are_out() {
    check(
        "join A v=3
         join B v=3 session=100000
         tick 6000
         sync A assign=A:a,B:b
         sync B
         join C v=3
         join A
         tick 59999
         heartbeat B
         tick 1
         heartbeat B",
        expect![[r#"
            join A v=3
            join B v=3 session=100000
            tick 6000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1 B#1]
              B <- join B#1: generation 1 consumer/range leader A#1 members []
            sync A assign=A:a,B:b
              append group(g)
              A <- sync: consumer/range b"a"
            sync B
              B <- sync: consumer/range b"b"
            join C v=3
            join A
            tick 59999
            heartbeat B
              B <- heartbeat: RebalanceInProgress
            tick 1
              A <- join A#1: generation 2 consumer/range leader A#1 members [A#1 C#1]
              C <- join C#1: generation 2 consumer/range leader A#1 members []
            heartbeat B
              B <- heartbeat: UnknownMemberId
        "#]],
    );
}

#[test]
fn members_that_do_not_sync_in_time_are_out() {
    check(
        "join A v=3 session=100000 rebalance=20000
         join B v=3 session=100000 rebalance=20000
         tick 6000
         sync A assign=A:a,B:b
         tick 19999
         tick 1
         heartbeat A
         heartbeat B",
        expect![[r#"
            join A v=3 session=100000 rebalance=20000
            join B v=3 session=100000 rebalance=20000
            tick 6000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1 B#1]
              B <- join B#1: generation 1 consumer/range leader A#1 members []
            sync A assign=A:a,B:b
              append group(g)
              A <- sync: consumer/range b"a"
            tick 19999
            tick 1
            heartbeat A
              A <- heartbeat: RebalanceInProgress
            heartbeat B
              B <- heartbeat: UnknownMemberId
        "#]],
    );
}

#[test]
fn leaving_rebalances_at_once_and_the_last_one_leaves_an_empty_group() {
    check_stable(
        "leave A
         heartbeat B
         join B
         sync B assign=B:all
         hold
         leave B
         describe
         flush
         describe
         heartbeat B
         leave B
         leave B v=2",
        expect![[r#"
            leave A
              A <- leave: None [A#1=None]
            heartbeat B
              B <- heartbeat: RebalanceInProgress
            join B
              B <- join B#1: generation 2 consumer/range leader B#1 members [B#1]
            sync B assign=B:all
              append group(g)
              B <- sync: consumer/range b"all"
            hold
            leave B
              append group(g)
            describe
               <- describe: None Empty consumer/ []
            flush
              B <- leave: None [B#1=None]
            describe
               <- describe: None Empty consumer/ []
            heartbeat B
              B <- heartbeat: UnknownMemberId
            leave B
              B <- leave: None [B#1=UnknownMemberId]
            leave B v=2
              B <- leave: UnknownMemberId []
        "#]],
    );
}

#[test]
fn several_members_leave_in_one_request() {
    check_stable(
        "leave A and=B
         describe
         forget A
         forget B
         join A v=3
         join B
         leave B
         tick 3000
         leave A and=B,C",
        expect![[r#"
            leave A and=B
              append group(g)
              A <- leave: None [A#1=None B#1=None]
            describe
               <- describe: None Empty consumer/ []
            forget A
            forget B
            join A v=3
            join B
              B <- join B#2: MemberIdRequired
            leave B
              B <- leave: None [B#2=None]
            tick 3000
              A <- join A#2: generation 3 consumer/range leader A#2 members [A#2]
            leave A and=B,C
              append group(g)
              A <- leave: None [A#2=None B#2=UnknownMemberId -=UnknownMemberId]
        "#]],
    );
}

#[test]
fn a_member_without_heartbeats_is_out() {
    check_stable(
        "tick 9999
         heartbeat A
         tick 1
         describe
         heartbeat A
         join A
         sync A assign=A:all
         tick 10000
         describe",
        expect![[r#"
            tick 9999
            heartbeat A
              A <- heartbeat: None
            tick 1
            describe
               <- describe: None PreparingRebalance consumer/ [A#1/A=b"a"]
            heartbeat A
              A <- heartbeat: RebalanceInProgress
            join A
              A <- join A#1: generation 2 consumer/range leader A#1 members [A#1]
            sync A assign=A:all
              append group(g)
              A <- sync: consumer/range b"all"
            tick 10000
              append group(g)
            describe
               <- describe: None Empty consumer/ []
        "#]],
    );
}

#[test]
fn an_id_that_was_given_out_expires() {
    check(
        "join A v=9 session=6000
         tick 6000
         join A v=9
         list",
        expect![[r#"
            join A v=9 session=6000
              A <- join A#1: MemberIdRequired
            tick 6000
            join A v=9
              A <- join A#1: UnknownMemberId
            list
               <- list: None []
        "#]],
    );
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    check(
        "join A instance=a
         join B instance=b
         tick 6000
         sync A instance=a assign=A:a,B:b
         sync B instance=b
         forget A
         hold
         join A instance=a v=9
         flush
         sync A instance=a
         heartbeat B instance=b
         forget B
         join B instance=b v=8
         sync B instance=b
         describe
         restart
         describe
         heartbeat B instance=b",
        expect![[r#"
            join A instance=a
            join B instance=b
            tick 6000
              A <- join a#1: generation 1 consumer/range leader a#1 members [a#1 b#1]
              B <- join b#1: generation 1 consumer/range leader a#1 members []
            sync A instance=a assign=A:a,B:b
              append group(g)
              A <- sync: consumer/range b"a"
            sync B instance=b
              B <- sync: consumer/range b"b"
            forget A
            hold
            join A instance=a v=9
              append group(g)
            flush
              A <- join a#2: generation 1 consumer/range leader a#2 members [a#2 b#1] skip
            sync A instance=a
              A <- sync: consumer/range b"a"
            heartbeat B instance=b
              B <- heartbeat: None
            forget B
            join B instance=b v=8
              append group(g)
              B <- join b#2: generation 1 consumer/range leader a#2 members []
            sync B instance=b
              B <- sync: consumer/range b"b"
            describe
               <- describe: None Stable consumer/range [a#2/A=b"a" b#2/B=b"b"]
            restart
            describe
               <- describe: None Stable consumer/range [a#2/A=b"a" b#2/B=b"b"]
            heartbeat B instance=b
              B <- heartbeat: None
        "#]],
    );
}

#[test]
fn a_returning_static_leader_is_not_told_to_lead_before_version_9() {
    check(
        "join A instance=a
         tick 3000
         sync A instance=a assign=A:a
         forget A
         join A instance=a v=8
         sync A instance=a",
        expect![[r#"
            join A instance=a
            tick 3000
              A <- join a#1: generation 1 consumer/range leader a#1 members [a#1]
            sync A instance=a assign=A:a
              append group(g)
              A <- sync: consumer/range b"a"
            forget A
            join A instance=a v=8
              append group(g)
              A <- join a#2: generation 1 consumer/range leader a#1 members []
            sync A instance=a
              A <- sync: consumer/range b"a"
        "#]],
    );
}

#[test]
fn an_old_static_member_is_fenced() {
    check(
        "join A instance=a
         tick 3000
         sync A instance=a assign=A:a
         join A2 instance=a
         heartbeat A instance=a
         join A instance=a
         sync A instance=a
         commit A instance=a offsets=0:1
         leave A instance=a
         heartbeat A
         heartbeat A instance=other
         leave admin instance=a",
        expect![[r#"
            join A instance=a
            tick 3000
              A <- join a#1: generation 1 consumer/range leader a#1 members [a#1]
            sync A instance=a assign=A:a
              append group(g)
              A <- sync: consumer/range b"a"
            join A2 instance=a
              append group(g)
              A2 <- join a#2: generation 1 consumer/range leader a#2 members [a#2] skip
            heartbeat A instance=a
              A <- heartbeat: FencedInstanceId
            join A instance=a
              A <- join a#1: FencedInstanceId
            sync A instance=a
              A <- sync: FencedInstanceId
            commit A instance=a offsets=0:1
              A <- commit: t-0=FencedInstanceId
            leave A instance=a
              A <- leave: None [a#1@a=FencedInstanceId]
            heartbeat A
              A <- heartbeat: UnknownMemberId
            heartbeat A instance=other
              A <- heartbeat: UnknownMemberId
            leave admin instance=a
              append group(g)
              admin <- leave: None [-@a=None]
        "#]],
    );
}

#[test]
fn a_static_member_that_changes_the_protocol_rebalances() {
    check(
        "join A instance=a protocols=range,sticky
         tick 3000
         sync A instance=a assign=A:a
         forget A
         join A instance=a protocols=sticky,range
         sync A instance=a assign=A:a
         describe",
        expect![[r#"
            join A instance=a protocols=range,sticky
            tick 3000
              A <- join a#1: generation 1 consumer/range leader a#1 members [a#1]
            sync A instance=a assign=A:a
              append group(g)
              A <- sync: consumer/range b"a"
            forget A
            join A instance=a protocols=sticky,range
              A <- join a#2: generation 2 consumer/sticky leader a#2 members [a#2]
            sync A instance=a assign=A:a
              append group(g)
              A <- sync: consumer/sticky b"a"
            describe
               <- describe: None Stable consumer/sticky [a#2/A=b"a"]
        "#]],
    );
}

#[test]
fn a_static_member_whose_write_fails_is_put_back() {
    check(
        "join A instance=a
         tick 3000
         sync A instance=a assign=A:a
         hold
         join A2 instance=a
         fail 19
         heartbeat A instance=a
         describe",
        expect![[r#"
            join A instance=a
            tick 3000
              A <- join a#1: generation 1 consumer/range leader a#1 members [a#1]
            sync A instance=a assign=A:a
              append group(g)
              A <- sync: consumer/range b"a"
            hold
            join A2 instance=a
              append group(g)
            fail 19
              A2 <- join -: CoordinatorNotAvailable
            heartbeat A instance=a
              A <- heartbeat: None
            describe
               <- describe: None Stable consumer/range [a#1/A=b"a"]
        "#]],
    );
}

#[test]
fn cooperative_members_rejoin_with_a_new_generation_each_time() {
    check(
        "join A v=3 protocols=cooperative-sticky
         tick 3000
         sync A assign=A:0+1
         join B v=3 protocols=cooperative-sticky
         heartbeat A
         join A protocols=cooperative-sticky
         sync A assign=A:0
         sync B
         commit A offsets=1:10
         join A protocols=cooperative-sticky topics=t,t2
         heartbeat B
         join B protocols=cooperative-sticky
         sync B
         sync A assign=A:0,B:1
         heartbeat A
         heartbeat B",
        expect![[r#"
            join A v=3 protocols=cooperative-sticky
            tick 3000
              A <- join A#1: generation 1 consumer/cooperative-sticky leader A#1 members [A#1]
            sync A assign=A:0+1
              append group(g)
              A <- sync: consumer/cooperative-sticky b"0+1"
            join B v=3 protocols=cooperative-sticky
            heartbeat A
              A <- heartbeat: RebalanceInProgress
            join A protocols=cooperative-sticky
              A <- join A#1: generation 2 consumer/cooperative-sticky leader A#1 members [A#1 B#1]
              B <- join B#1: generation 2 consumer/cooperative-sticky leader A#1 members []
            sync A assign=A:0
              append group(g)
              A <- sync: consumer/cooperative-sticky b"0"
            sync B
              B <- sync: consumer/cooperative-sticky b""
            commit A offsets=1:10
              append offset(g,t,1)
              A <- commit: t-1=None
            join A protocols=cooperative-sticky topics=t,t2
            heartbeat B
              B <- heartbeat: RebalanceInProgress
            join B protocols=cooperative-sticky
              A <- join A#1: generation 3 consumer/cooperative-sticky leader A#1 members [A#1 B#1]
              B <- join B#1: generation 3 consumer/cooperative-sticky leader A#1 members []
            sync B
            sync A assign=A:0,B:1
              append group(g)
              A <- sync: consumer/cooperative-sticky b"0"
              B <- sync: consumer/cooperative-sticky b"1"
            heartbeat A
              A <- heartbeat: None
            heartbeat B
              B <- heartbeat: None
        "#]],
    );
}

#[test]
fn the_protocol_with_most_votes_is_selected() {
    check(
        "join A v=3 protocols=range,sticky,a-only
         join B v=3 protocols=sticky,range
         join C v=3 protocols=sticky,range
         join D v=3 protocols=other
         join E v=3 protocols=range type=connect
         tick 9000
         sync A protocol=range
         sync A type=connect
         sync A type=consumer protocol=sticky assign=A:a
         join D v=3 protocols=
         join D v=3 group=new protocols=
         join D v=3 group=new type=",
        expect![[r#"
            join A v=3 protocols=range,sticky,a-only
            join B v=3 protocols=sticky,range
            join C v=3 protocols=sticky,range
            join D v=3 protocols=other
              D <- join -: InconsistentGroupProtocol
            join E v=3 protocols=range type=connect
              E <- join -: InconsistentGroupProtocol
            tick 9000
              A <- join A#1: generation 1 consumer/sticky leader A#1 members [A#1 B#1 C#1]
              B <- join B#1: generation 1 consumer/sticky leader A#1 members []
              C <- join C#1: generation 1 consumer/sticky leader A#1 members []
            sync A protocol=range
              A <- sync: InconsistentGroupProtocol
            sync A type=connect
              A <- sync: InconsistentGroupProtocol
            sync A type=consumer protocol=sticky assign=A:a
              append group(g)
              A <- sync: consumer/sticky b"a"
            join D v=3 protocols=
              D <- join -: InconsistentGroupProtocol
            join D v=3 group=new protocols=
              D <- join -: InconsistentGroupProtocol
            join D v=3 group=new type=
              D <- join -: InconsistentGroupProtocol
        "#]],
    );
}

#[test]
fn an_assignment_that_cannot_be_written_rebalances() {
    check(
        "join A v=3
         join B v=3
         tick 6000
         hold
         sync B
         sync A assign=A:a,B:b
         sync A assign=A:other
         heartbeat B
         fail 19
         heartbeat B
         join A
         join B
         sync A assign=A:a2,B:b2
         flush
         sync B
         describe",
        expect![[r#"
            join A v=3
            join B v=3
            tick 6000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1 B#1]
              B <- join B#1: generation 1 consumer/range leader A#1 members []
            hold
            sync B
            sync A assign=A:a,B:b
              append group(g)
            sync A assign=A:other
              A <- sync: RebalanceInProgress
            heartbeat B
              B <- heartbeat: None
            fail 19
              A <- sync: CoordinatorNotAvailable
              B <- sync: CoordinatorNotAvailable
            heartbeat B
              B <- heartbeat: RebalanceInProgress
            join A
            join B
              A <- join A#1: generation 2 consumer/range leader A#1 members [A#1 B#1]
              B <- join B#1: generation 2 consumer/range leader A#1 members []
            sync A assign=A:a2,B:b2
              append group(g)
            flush
              A <- sync: consumer/range b"a2"
            sync B
              B <- sync: consumer/range b"b2"
            describe
               <- describe: None Stable consumer/range [A#1/A=b"a2" B#1/B=b"b2"]
        "#]],
    );
}

#[test]
fn a_rebalance_that_overtakes_the_write_of_an_assignment_wins() {
    check(
        "join A v=3
         tick 3000
         hold
         sync A assign=A:a
         join B v=3
         flush
         describe
         join A
         sync A assign=A:a2,B:b2
         sync B
         describe",
        expect![[r#"
            join A v=3
            tick 3000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1]
            hold
            sync A assign=A:a
              append group(g)
            join B v=3
              A <- sync: RebalanceInProgress
            flush
            describe
               <- describe: None PreparingRebalance consumer/ [A#1/A=b"" B#1/B=b""]
            join A
              A <- join A#1: generation 2 consumer/range leader A#1 members [A#1 B#1]
              B <- join B#1: generation 2 consumer/range leader A#1 members []
            sync A assign=A:a2,B:b2
              append group(g)
              A <- sync: consumer/range b"a2"
            sync B
              B <- sync: consumer/range b"b2"
            describe
               <- describe: None Stable consumer/range [A#1/A=b"a2" B#1/B=b"b2"]
        "#]],
    );
}

#[test]
fn requests_with_wrong_ids_are_refused() {
    check_stable(
        "heartbeat A generation=7
         heartbeat A member=-
         heartbeat A group=other
         heartbeat A group=
         sync A generation=7
         sync X
         sync A group=other
         sync A group=
         join X member=A
         join A group=
         join A group=other
         join A session=5999
         join A session=1800001
         leave A group=
         leave A group=other
         leave X instance=nobody
         delete
         delete group=other",
        expect![[r#"
            heartbeat A generation=7
              A <- heartbeat: IllegalGeneration
            heartbeat A member=-
              A <- heartbeat: UnknownMemberId
            heartbeat A group=other
              A <- heartbeat: UnknownMemberId
            heartbeat A group=
              A <- heartbeat: InvalidGroupId
            sync A generation=7
              A <- sync: IllegalGeneration
            sync X
              X <- sync: UnknownMemberId
            sync A group=other
              A <- sync: UnknownMemberId
            sync A group=
              A <- sync: InvalidGroupId
            join X member=A
            join A group=
              A <- join A#1: InvalidGroupId
            join A group=other
              A <- join A#1: UnknownMemberId
            join A session=5999
              A <- join -: InvalidSessionTimeout
            join A session=1800001
              A <- join -: InvalidSessionTimeout
            leave A group=
              A <- leave: InvalidGroupId []
            leave A group=other
              A <- leave: None [-=UnknownMemberId]
            leave X instance=nobody
              X <- leave: None [-@nobody=UnknownMemberId]
            delete
               <- delete g: NonEmptyGroup
            delete group=other
               <- delete other: GroupIdNotFound
        "#]],
    );
}

#[test]
fn groups_are_bounded() {
    check_with(
        GroupConfig { members_max: 2, pending_members_max: 1, groups_max: 1, ..GroupConfig::default() },
        "join A v=3
         join B v=3
         join C v=3
         join C v=3 group=h
         tick 6000
         join C v=3
         sync A assign=A:a,B:b
         join C v=3
         join A
         join B
         leave B
         join C
         join D
         join C",
        expect![[r#"
            join A v=3
            join B v=3
            join C v=3
              C <- join -: GroupMaxSizeReached
            join C v=3 group=h
              C <- join -: GroupMaxSizeReached
            tick 6000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1 B#1]
              B <- join B#1: generation 1 consumer/range leader A#1 members []
            join C v=3
              C <- join -: GroupMaxSizeReached
            sync A assign=A:a,B:b
              append group(g)
              A <- sync: consumer/range b"a"
            join C v=3
              C <- join -: GroupMaxSizeReached
            join A
            join B
              A <- join A#1: generation 2 consumer/range leader A#1 members [A#1 B#1]
              B <- join B#1: generation 2 consumer/range leader A#1 members []
            leave B
              B <- leave: None [B#1=None]
            join C
              C <- join C#1: MemberIdRequired
            join D
              D <- join -: GroupMaxSizeReached
            join C
        "#]],
    );
}

#[test]
fn offsets_are_visible_once_committed() {
    check_stable(
        "hold
         commit A offsets=0:5,1:6 epoch=3 metadata=note
         fetch A partitions=0
         fetch A partitions=0 stable=yes
         flush
         fetch A partitions=0,1,2 stable=yes
         hold
         commit A offsets=0:7
         commit A offsets=0:8
         flush
         fetch A partitions=0
         hold
         commit A offsets=0:9
         fail 19
         commit A offsets=0:9
         fail 10
         commit A offsets=0:9
         fail 6
         flush
         fetch A",
        expect![[r#"
            hold
            commit A offsets=0:5,1:6 epoch=3 metadata=note
              append offset(g,t,0) offset(g,t,1)
            fetch A partitions=0
              A <- fetch: t-0=-1/-1/""
            fetch A partitions=0 stable=yes
              A <- fetch: t-0=UnstableOffsetCommit
            flush
              A <- commit: t-0=None t-1=None
            fetch A partitions=0,1,2 stable=yes
              A <- fetch: t-0=5/3/"note" t-1=6/3/"note" t-2=-1/-1/""
            hold
            commit A offsets=0:7
              append offset(g,t,0)
            commit A offsets=0:8
              append offset(g,t,0)
            flush
              A <- commit: t-0=None
              A <- commit: t-0=None
            fetch A partitions=0
              A <- fetch: t-0=8/-1/""
            hold
            commit A offsets=0:9
              append offset(g,t,0)
            fail 19
              A <- commit: t-0=CoordinatorNotAvailable
            commit A offsets=0:9
              append offset(g,t,0)
            fail 10
              A <- commit: t-0=InvalidCommitOffsetSize
            commit A offsets=0:9
              append offset(g,t,0)
            fail 6
              A <- commit: t-0=NotCoordinator
            flush
            fetch A
              A <- fetch: t-0=8/-1/"" t-1=6/3/"note"
        "#]],
    );
}

#[test]
fn of_several_mentions_of_a_partition_the_last_is_committed() {
    check(
        "commit S generation=-1 offsets=1:7,0:5,1:9,0:3
         fetch S",
        expect![[r#"
            commit S generation=-1 offsets=1:7,0:5,1:9,0:3
              append offset(g,t,0) offset(g,t,1)
              S <- commit: t-1=None t-0=None t-1=None t-0=None
            fetch S
              S <- fetch: t-0=3/-1/"" t-1=9/-1/""
        "#]],
    );
    let config = GroupConfig { offsets_max: 1, ..GroupConfig::default() };
    check_with(
        config,
        "commit S generation=-1 offsets=0:1,1:1,0:2
         fetch S",
        expect![[r#"
            commit S generation=-1 offsets=0:1,1:1,0:2
              append offset(g,t,0)
              S <- commit: t-0=None t-1=InvalidCommitOffsetSize t-0=None
            fetch S
              S <- fetch: t-0=2/-1/""
        "#]],
    );
}

#[test]
fn who_may_commit() {
    check_stable(
        "commit A generation=7 offsets=0:1
         commit X generation=1 offsets=0:1
         commit simple generation=-1 offsets=0:1
         commit A generation=-1 offsets=0:1
         commit A group=other offsets=0:1 v=9
         commit A group=other offsets=0:1 v=8
         commit A topic= offsets=0:1
         join C v=3
         commit A offsets=0:1
         join A
         join B
         commit A offsets=0:2
         fetch A",
        expect![[r#"
            commit A generation=7 offsets=0:1
              A <- commit: t-0=IllegalGeneration
            commit X generation=1 offsets=0:1
              X <- commit: t-0=UnknownMemberId
            commit simple generation=-1 offsets=0:1
              simple <- commit: t-0=UnknownMemberId
            commit A generation=-1 offsets=0:1
              A <- commit: t-0=IllegalGeneration
            commit A group=other offsets=0:1 v=9
              A <- commit: t-0=GroupIdNotFound
            commit A group=other offsets=0:1 v=8
              A <- commit: t-0=IllegalGeneration
            commit A topic= offsets=0:1
              A <- commit: -0=UnknownTopicOrPartition
            join C v=3
            commit A offsets=0:1
              append offset(g,t,0)
              A <- commit: t-0=None
            join A
            join B
              A <- join A#1: generation 2 consumer/range leader A#1 members [A#1 B#1 C#1]
              B <- join B#1: generation 2 consumer/range leader A#1 members []
              C <- join C#1: generation 2 consumer/range leader A#1 members []
            commit A offsets=0:2
              A <- commit: t-0=RebalanceInProgress
            fetch A
              A <- fetch: t-0=1/-1/""
        "#]],
    );
}

#[test]
fn a_simple_consumer_needs_no_group() {
    check(
        "commit S generation=-1 group=s offsets=0:42
         fetch S group=s
         describe group=s
         list
         list state=stable
         list state=EMPTY type=Classic
         list type=consumer
         commit S generation=1 group=s offsets=0:43
         delete-offsets S group=s partitions=0,1
         fetch S group=s partitions=0
         describe group=s
         describe group=s v=5
         commit S generation=-1 group= offsets=0:1
         fetch S group=",
        expect![[r#"
            commit S generation=-1 group=s offsets=0:42
              append offset(s,t,0)
              S <- commit: t-0=None
            fetch S group=s
              S <- fetch: t-0=42/-1/""
            describe group=s
               <- describe: None Empty / []
            list
               <- list: None [s:Empty::classic]
            list state=stable
               <- list: None []
            list state=EMPTY type=Classic
               <- list: None [s:Empty::classic]
            list type=consumer
               <- list: None []
            commit S generation=1 group=s offsets=0:43
              S <- commit: t-0=UnknownMemberId
            delete-offsets S group=s partitions=0,1
              append -offset(s,t,0)
              S <- delete-offsets: None t-0=None t-1=None
            fetch S group=s partitions=0
              S <- fetch: t-0=-1/-1/""
            describe group=s
               <- describe: GroupIdNotFound Dead / [] KafkaString { inner: b"Group s not found." }
            describe group=s v=5
               <- describe: None Dead / []
            commit S generation=-1 group= offsets=0:1
              append offset(,t,0)
              S <- commit: t-0=None
            fetch S group=
              S <- fetch: t-0=1/-1/""
        "#]],
    );
}

#[test]
fn metadata_is_bounded() {
    check_with(
        GroupConfig { offset_metadata_max: 4, offsets_max: 2, ..GroupConfig::default() },
        "commit S generation=-1 offsets=0:1 metadata=äöüß
         commit S generation=-1 offsets=0:1 metadata=12345
         commit S generation=-1 offsets=0:2,1:1,2:1
         fetch S",
        expect![[r#"
            commit S generation=-1 offsets=0:1 metadata=äöüß
              append offset(g,t,0)
              S <- commit: t-0=None
            commit S generation=-1 offsets=0:1 metadata=12345
              S <- commit: t-0=OffsetMetadataTooLarge
            commit S generation=-1 offsets=0:2,1:1,2:1
              append offset(g,t,0)
              S <- commit: t-0=None t-1=InvalidCommitOffsetSize t-2=InvalidCommitOffsetSize
            fetch S
              S <- fetch: t-0=2/-1/""
        "#]],
    );
}

#[test]
fn offsets_of_a_simple_consumer_expire_after_their_commit() {
    check_with(
        GroupConfig { offsets_retention_ms: 1_000_000, ..GroupConfig::default() },
        "commit S generation=-1 offsets=0:1
         commit S generation=-1 offsets=2:1 retention=10
         tick 600000
         commit S generation=-1 offsets=1:1
         fetch S
         tick 600000
         fetch S
         tick 600000
         list",
        expect![[r#"
            commit S generation=-1 offsets=0:1
              append offset(g,t,0)
              S <- commit: t-0=None
            commit S generation=-1 offsets=2:1 retention=10
              append offset(g,t,2)
              S <- commit: t-2=None
            tick 600000
              append -offset(g,t,2)
            commit S generation=-1 offsets=1:1
              append offset(g,t,1)
              S <- commit: t-1=None
            fetch S
              S <- fetch: t-0=1/-1/"" t-1=1/-1/""
            tick 600000
              append -offset(g,t,0)
            fetch S
              S <- fetch: t-1=1/-1/""
            tick 600000
              append -offset(g,t,1)
            list
               <- list: None []
        "#]],
    );
}

#[test]
fn offsets_of_an_empty_group_expire_after_it_became_empty() {
    check_with(
        GroupConfig { offsets_retention_ms: 1_000_000, ..GroupConfig::default() },
        "join A v=3 session=1800000 topics=t
         tick 3000
         sync A assign=A:a
         commit A offsets=0:1
         commit A offsets=0:1 topic=unused
         tick 1797000
         fetch A
         heartbeat A
         tick 597000
         leave A
         tick 603000
         fetch A
         tick 600000
         list",
        expect![[r#"
            join A v=3 session=1800000 topics=t
            tick 3000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1]
            sync A assign=A:a
              append group(g)
              A <- sync: consumer/range b"a"
            commit A offsets=0:1
              append offset(g,t,0)
              A <- commit: t-0=None
            commit A offsets=0:1 topic=unused
              append offset(g,unused,0)
              A <- commit: unused-0=None
            tick 1797000
              append -offset(g,unused,0)
            fetch A
              A <- fetch: t-0=1/-1/""
            heartbeat A
              A <- heartbeat: None
            tick 597000
            leave A
              append group(g)
              A <- leave: None [A#1=None]
            tick 603000
            fetch A
              A <- fetch: t-0=1/-1/""
            tick 600000
              append -offset(g,t,0) -group(g)
            list
               <- list: None []
        "#]],
    );
}

#[test]
fn offsets_in_use_are_not_deleted() {
    check_stable(
        "commit A offsets=0:1
         commit A offsets=0:1 topic=unused
         delete-offsets admin partitions=0
         delete-offsets admin topic=unused partitions=0
         fetch A
         delete
         delete-offsets admin group=other partitions=0
         delete-offsets admin group= partitions=0
         leave A and=B
         delete-offsets admin partitions=0
         fetch A",
        expect![[r#"
            commit A offsets=0:1
              append offset(g,t,0)
              A <- commit: t-0=None
            commit A offsets=0:1 topic=unused
              append offset(g,unused,0)
              A <- commit: unused-0=None
            delete-offsets admin partitions=0
              admin <- delete-offsets: None t-0=GroupSubscribedToTopic
            delete-offsets admin topic=unused partitions=0
              append -offset(g,unused,0)
              admin <- delete-offsets: None unused-0=None
            fetch A
              A <- fetch: t-0=1/-1/""
            delete
               <- delete g: NonEmptyGroup
            delete-offsets admin group=other partitions=0
              admin <- delete-offsets: GroupIdNotFound
            delete-offsets admin group= partitions=0
              admin <- delete-offsets: InvalidGroupId
            leave A and=B
              append group(g)
              A <- leave: None [A#1=None B#1=None]
            delete-offsets admin partitions=0
              append -offset(g,t,0)
              admin <- delete-offsets: None t-0=None
            fetch A
              A <- fetch:
        "#]],
    );
}

#[test]
fn offsets_of_members_whose_subscriptions_are_unknown_are_not_deleted() {
    check(
        "join W v=3 type=connect
         tick 3000
         sync W assign=W:w
         commit W offsets=0:1
         delete-offsets admin partitions=0",
        expect![[r#"
            join W v=3 type=connect
            tick 3000
              W <- join W#1: generation 1 connect/range leader W#1 members [W#1]
            sync W assign=W:w
              append group(g)
              W <- sync: connect/range b"w"
            commit W offsets=0:1
              append offset(g,t,0)
              W <- commit: t-0=None
            delete-offsets admin partitions=0
              admin <- delete-offsets: NonEmptyGroup
        "#]],
    );
}

#[test]
fn a_deleted_group_is_gone_with_commits_that_were_under_way() {
    check_stable(
        "commit A offsets=0:1
         leave A and=B
         hold
         commit S generation=-1 offsets=1:1
         delete
         flush
         list
         fetch S
         describe
         delete",
        expect![[r#"
            commit A offsets=0:1
              append offset(g,t,0)
              A <- commit: t-0=None
            leave A and=B
              append group(g)
              A <- leave: None [A#1=None B#1=None]
            hold
            commit S generation=-1 offsets=1:1
              append offset(g,t,1)
            delete
              append -offset(g,t,0) -offset(g,t,1) -group(g)
            flush
              S <- commit: t-1=None
               <- delete g: None
            list
               <- list: None []
            fetch S
              S <- fetch:
            describe
               <- describe: GroupIdNotFound Dead / [] KafkaString { inner: b"Group g not found." }
            delete
               <- delete g: GroupIdNotFound
        "#]],
    );
}

#[test]
fn a_member_that_joins_while_its_group_is_deleted_stays() {
    check_stable(
        "leave A and=B
         hold
         delete
         join C v=3
         flush
         tick 3000
         sync C assign=C:c
         describe
         restart
         describe",
        expect![[r#"
            leave A and=B
              append group(g)
              A <- leave: None [A#1=None B#1=None]
            hold
            delete
              append -group(g)
            join C v=3
            flush
               <- delete g: None
            tick 3000
              C <- join C#1: generation 3 consumer/range leader C#1 members [C#1]
            sync C assign=C:c
              append group(g)
              C <- sync: consumer/range b"c"
            describe
               <- describe: None Stable consumer/range [C#1/C=b"c"]
            restart
            describe
               <- describe: None Stable consumer/range [C#1/C=b"c"]
        "#]],
    );
}

#[test]
fn a_deleted_topic_takes_its_offsets_along() {
    check_stable(
        "commit A offsets=0:1,1:1
         commit S group=s generation=-1 offsets=3:1
         commit S group=s generation=-1 offsets=3:1 topic=other
         delete-topic t
         fetch A
         fetch S group=s",
        expect![[r#"
            commit A offsets=0:1,1:1
              append offset(g,t,0) offset(g,t,1)
              A <- commit: t-0=None t-1=None
            commit S group=s generation=-1 offsets=3:1
              append offset(s,t,3)
              S <- commit: t-3=None
            commit S group=s generation=-1 offsets=3:1 topic=other
              append offset(s,other,3)
              S <- commit: other-3=None
            delete-topic t
              append -offset(g,t,0) -offset(g,t,1) -offset(s,t,3)
            fetch A
              A <- fetch:
            fetch S group=s
              S <- fetch: other-3=1/-1/""
        "#]],
    );
}

#[test]
fn topics_deleted_together_take_their_offsets_along() {
    check(
        "commit S generation=-1 offsets=0:1
         commit S generation=-1 offsets=0:1 topic=u
         commit S generation=-1 offsets=0:1 topic=v
         commit S group=h generation=-1 offsets=2:1 topic=u
         hold
         commit S group=i generation=-1 offsets=5:1 topic=t
         commit S group=i generation=-1 offsets=5:1 topic=v
         delete-topic t,u,other
         flush
         fetch S
         fetch S group=h
         fetch S group=i",
        expect![[r#"
            commit S generation=-1 offsets=0:1
              append offset(g,t,0)
              S <- commit: t-0=None
            commit S generation=-1 offsets=0:1 topic=u
              append offset(g,u,0)
              S <- commit: u-0=None
            commit S generation=-1 offsets=0:1 topic=v
              append offset(g,v,0)
              S <- commit: v-0=None
            commit S group=h generation=-1 offsets=2:1 topic=u
              append offset(h,u,2)
              S <- commit: u-2=None
            hold
            commit S group=i generation=-1 offsets=5:1 topic=t
              append offset(i,t,5)
            commit S group=i generation=-1 offsets=5:1 topic=v
              append offset(i,v,5)
            delete-topic t,u,other
              append -offset(g,t,0) -offset(g,u,0) -offset(h,u,2) -offset(i,t,5)
            flush
              S <- commit: t-5=None
              S <- commit: v-5=None
            fetch S
              S <- fetch: v-0=1/-1/""
            fetch S group=h
              S <- fetch:
            fetch S group=i
              S <- fetch: v-5=1/-1/""
        "#]],
    );
}

#[test]
fn a_resignation_answers_everybody() {
    check_stable(
        "join C v=3
         join A
         hold
         commit S group=s generation=-1 offsets=0:1
         failover
         heartbeat B
         heartbeat A
         describe
         tick 10000
         describe",
        expect![[r#"
            join C v=3
            join A
            hold
            commit S group=s generation=-1 offsets=0:1
              append offset(s,t,0)
            failover
              S <- commit: t-0=NotCoordinator
              A <- join A#1: NotCoordinator
              C <- join C#1: NotCoordinator
            heartbeat B
              B <- heartbeat: None
            heartbeat A
              A <- heartbeat: None
            describe
               <- describe: None Stable consumer/range [A#1/A=b"a" B#1/B=b"b"]
            tick 10000
              append group(g)
            describe
               <- describe: None Empty consumer/ []
        "#]],
    );
}

#[test]
fn a_resignation_answers_those_who_sync_and_leave() {
    check(
        "join A v=3
         join B v=3
         tick 6000
         sync B
         hold
         sync A assign=A:a
         failover
         list
         join C v=3 group=h
         flush
         tick 3000
         sync C group=h assign=C:c
         hold
         leave C group=h
         failover
         describe group=h",
        expect![[r#"
            join A v=3
            join B v=3
            tick 6000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1 B#1]
              B <- join B#1: generation 1 consumer/range leader A#1 members []
            sync B
            hold
            sync A assign=A:a
              append group(g)
            failover
              A <- sync: NotCoordinator
              B <- sync: NotCoordinator
            list
               <- list: None []
            join C v=3 group=h
            flush
            tick 3000
              C <- join C#1: generation 1 consumer/range leader C#1 members [C#1]
            sync C group=h assign=C:c
              append group(h)
              C <- sync: consumer/range b"c"
            hold
            leave C group=h
              append group(h)
            failover
              C <- leave: NotCoordinator []
            describe group=h
               <- describe: None Stable consumer/range [C#1/C=b"c"]
        "#]],
    );
}

#[test]
fn a_repeated_join_or_sync_answers_the_one_before() {
    check(
        "join A v=3
         join B v=3
         tick 6000
         sync B
         sync B
         sync A assign=A:a,B:b
         join C v=3
         join A
         join A",
        expect![[r#"
            join A v=3
            join B v=3
            tick 6000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1 B#1]
              B <- join B#1: generation 1 consumer/range leader A#1 members []
            sync B
            sync B
              B <- sync: RebalanceInProgress
            sync A assign=A:a,B:b
              append group(g)
              A <- sync: consumer/range b"a"
              B <- sync: consumer/range b"b"
            join C v=3
            join A
            join A
              A <- join A#1: RebalanceInProgress
        "#]],
    );
}

#[test]
fn an_empty_group_whose_record_was_lost_is_forgotten_in_time() {
    check(
        "join A v=3
         tick 3000
         hold
         leave A
         fail 19
         list
         tick 600000
         list",
        expect![[r#"
            join A v=3
            tick 3000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1]
            hold
            leave A
              append group(g)
            fail 19
              A <- leave: CoordinatorNotAvailable []
            list
               <- list: None [g:Empty:consumer:classic]
            tick 600000
            list
               <- list: None []
        "#]],
    );
}

#[test]
fn a_group_above_a_lowered_bound_rejoins_after_an_election() {
    let mut world = World::new(GroupConfig::default());
    for line in STABLE.lines().map(str::trim).filter(|line| !line.is_empty()) {
        world.step(line);
    }
    world.config.members_max = 1;
    world.output.clear();
    for line in ["restart", "heartbeat A", "join B", "join A", "sync B assign=B:b", "describe"] {
        world.output.push_str(line);
        world.output.push('\n');
        world.step(line);
    }
    expect![[r#"
        restart
        heartbeat A
          A <- heartbeat: RebalanceInProgress
        join B
        join A
          B <- join B#1: generation 2 consumer/range leader B#1 members [B#1]
          A <- join -: GroupMaxSizeReached
        sync B assign=B:b
          append group(g)
          B <- sync: consumer/range b"b"
        describe
           <- describe: None Stable consumer/range [B#1/B=b"b"]
    "#]]
    .assert_eq(&world.output);
}

#[test]
fn without_an_initial_delay_the_first_generation_starts_at_once() {
    check_with(
        GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() },
        "join A v=3
         tick 0
         sync A assign=A:a",
        expect![[r#"
            join A v=3
            tick 0
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1]
            sync A assign=A:a
              append group(g)
              A <- sync: consumer/range b"a"
        "#]],
    );
}

#[test]
fn the_bytes_of_a_group_are_bounded() {
    check_with(
        GroupConfig { group_bytes_max: 60, ..GroupConfig::default() },
        "join A v=3
         join B v=3 topics=a-topic-with-a-rather-long-name
         tick 3000
         sync A assign=A:an-assignment-that-is-longer-than-what-the-group-has-left
         heartbeat A",
        expect![[r#"
            join A v=3
            join B v=3 topics=a-topic-with-a-rather-long-name
              B <- join -: GroupMaxSizeReached
            tick 3000
              A <- join A#1: generation 1 consumer/range leader A#1 members [A#1]
            sync A assign=A:an-assignment-that-is-longer-than-what-the-group-has-left
              A <- sync: UnknownServerError
            heartbeat A
              A <- heartbeat: RebalanceInProgress
        "#]],
    );
}
