//! Framing, order, back-pressure and the ends of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::Exit;

#[test]
fn requests_are_cut_right_wherever_the_bytes_are_split() {
    let dir = temporary();
    let node = start(dir.path(), 1, echo_core);
    let frames: Vec<_> = [0, 1, 2, 17].map(|bytes| patterned(bytes, bytes)).to_vec();
    let wire: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
    let mut stream = connect(&node);
    for cut in 0..=wire.len() {
        stream.write_all(&wire[..cut]).expect("sent");
        stream.write_all(&wire[cut..]).expect("sent");
        for frame in &frames {
            assert_eq!(&receive(&mut stream), frame, "cut at {cut}");
        }
    }
    for byte in &wire {
        stream.write_all(&[*byte]).expect("sent");
    }
    for frame in &frames {
        assert_eq!(&receive(&mut stream), frame);
    }
    assert_eq!(node.stop(), Exit::Finished);
}

#[test]
fn many_and_large_requests_come_back_in_order() {
    let dir = temporary();
    let node = start(dir.path(), 1, echo_core);
    let mut stream = connect(&node);
    let frames: Vec<_> = (0..3_000).map(|number| patterned(number % 97, number)).collect();
    let wire: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
    let mut writer = stream.try_clone().expect("cloned");
    let sending = std::thread::spawn(move || {
        writer.write_all(&wire).expect("sent");
        for bytes in [1 << 16, 3_000_000, 10, 20_000_000] {
            send(&mut writer, &patterned(bytes, bytes));
        }
    });
    for frame in &frames {
        assert_eq!(&receive(&mut stream), frame);
    }
    for bytes in [1 << 16, 3_000_000, 10, 20_000_000] {
        assert!(receive(&mut stream) == patterned(bytes, bytes), "a frame of {bytes} bytes");
    }
    sending.join().expect("sent");
    assert_eq!(node.stop(), Exit::Finished);
}

#[test]
fn hostile_lengths_close_their_connection_and_no_other() {
    let dir = temporary();
    let mut options = options(dir.path(), 1);
    options.request_bytes_max = 1_000;
    let node = Node::start(options, echo_core).expect("started");
    let mut other = connect(&node);
    for hostile in [i32::MAX, -1, i32::MIN, 1_001] {
        let mut stream = connect(&node);
        send(&mut stream, b"before");
        stream.write_all(&hostile.to_be_bytes()).expect("sent");
        assert_eq!(receive(&mut stream), b"before");
        assert!(is_closed(&mut stream), "length {hostile}");
        send(&mut other, b"still here");
        assert_eq!(receive(&mut other), b"still here");
    }
    send(&mut other, &[7; 1_000]);
    assert_eq!(receive(&mut other), [7; 1_000], "the maximum itself is allowed");
    assert_eq!(node.stop(), Exit::Finished);
}

#[test]
fn half_frames_and_silence_end_with_the_idle_time() {
    let dir = temporary();
    let mut options = options(dir.path(), 1);
    options.connections_max_idle = Duration::from_millis(200);
    let node = Node::start(options, echo_core).expect("started");
    let mut silent = connect(&node);
    let mut half = connect(&node);
    half.write_all(&[0, 0, 0, 9, 1, 2, 3]).expect("sent");
    assert!(is_closed(&mut silent));
    // Bytes alone are no sign of life, only requests are.
    assert!(is_closed(&mut half));
    assert_eq!(node.stop(), Exit::Finished);
}

#[test]
fn a_slow_reader_holds_up_nobody_and_loses_nothing() {
    const PART_BYTES: usize = 1 << 20;
    const PARTS: usize = 48;
    let dir = temporary();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let node = start(dir.path(), 1, move |_, _| {
        let counted = Arc::clone(&counted);
        closure_core(move |_, event, effects, _| match event {
            Event::Frame { connection, frame } if &frame[..] == b"much" => {
                let parts = (0..PARTS).map(|part| Bytes::from(patterned(PART_BYTES, part))).collect();
                effects.push(Effect::Respond { connection, parts });
            }
            Event::Frame { connection, frame } => effects.push(respond(connection, frame)),
            Event::ResponseSent { connection: ConnectionId(0), bytes } => {
                counted.fetch_add(bytes, Ordering::Relaxed);
            }
            _ => {}
        })
    });
    let mut slow = connect(&node);
    send(&mut slow, b"much");
    let mut other = connect(&node);
    for _ in 0..100 {
        send(&mut other, b"and me?");
        assert_eq!(receive(&mut other), b"and me?");
    }
    let taken = sent.load(Ordering::Relaxed);
    assert!(taken > 0 && taken < PARTS * PART_BYTES, "the socket took {taken} bytes unread");
    for part in 0..PARTS {
        let mut bytes = vec![0; PART_BYTES];
        slow.read_exact(&mut bytes).expect("read");
        assert!(bytes == patterned(PART_BYTES, part), "part {part}");
    }
    // By the answer to a later request all progress was reported.
    send(&mut slow, b"x");
    assert_eq!(receive(&mut slow), b"x");
    assert_eq!(node.stop(), Exit::Finished);
    assert_eq!(sent.load(Ordering::Relaxed), PARTS * PART_BYTES + 5);
}

#[test]
fn an_aborted_connection_ends_with_what_it_was_given() {
    const PARTS: usize = 48;
    let dir = temporary();
    let (sender, ends) = crossbeam_channel::unbounded();
    let node = start(dir.path(), 1, move |_, _| {
        let sender = sender.clone();
        closure_core(move |_, event, effects, _| match event {
            Event::Frame { connection, frame } if &frame[..] == b"much" => {
                let parts = (0..PARTS).map(|part| Bytes::from(patterned(1 << 20, part))).collect();
                effects.push(Effect::Respond { connection, parts });
            }
            Event::Frame { connection, frame } => {
                effects.push(Effect::Abort { connection: ConnectionId(0), reason: "a test".to_owned() });
                effects.push(respond(connection, frame));
            }
            Event::Disconnected { connection } => sender.send(connection).expect("the test listens"),
            _ => {}
        })
    });
    let mut slow = connect(&node);
    send(&mut slow, b"much");
    // It has begun to come.
    let mut bytes = vec![0; 1 << 20];
    slow.read_exact(&mut bytes).expect("read");
    let mut other = connect(&node);
    send(&mut other, b"cut it off");
    assert_eq!(receive(&mut other), b"cut it off");
    assert_eq!(ends.recv_timeout(PATIENCE).expect("an end"), ConnectionId(0));
    let mut rest = Vec::new();
    // Its end may come as a reset.
    let _ = slow.read_to_end(&mut rest);
    assert!(rest.len() < (PARTS - 1) << 20, "{} bytes more", rest.len());
    assert_eq!(node.stop(), Exit::Finished);
}

#[test]
fn no_request_comes_while_reading_is_stopped() {
    let dir = temporary();
    let node = start(dir.path(), 1, |_, _| {
        let mut stopped = None;
        closure_core(move |now, event, effects, deadline_us| match event {
            Event::Frame { connection, frame } => {
                assert_eq!(stopped, None, "a request although reading is stopped");
                let stops = frame[0] % 3 == 0;
                effects.push(respond(connection, frame));
                if stops {
                    stopped = Some(connection);
                    effects.push(Effect::SetReading { connection, reading: false });
                    deadline_us.set(Some(now.mono_us + 2_000));
                }
            }
            Event::DeadlineReached => {
                assert!(deadline_us.get().is_some_and(|due_us| due_us <= now.mono_us));
                deadline_us.set(None);
                let connection = stopped.take().expect("the deadline is set while reading is stopped");
                effects.push(Effect::SetReading { connection, reading: true });
            }
            _ => {}
        })
    });
    let mut stream = connect(&node);
    let frames: Vec<_> = (0..60u8).map(|number| vec![number; 200]).collect();
    let wire: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
    stream.write_all(&wire).expect("sent");
    for frame in &frames {
        assert_eq!(&receive(&mut stream), frame);
    }
    assert_eq!(node.stop(), Exit::Finished);
}

#[test]
fn closing_sends_first_and_every_connection_ends_once() {
    let dir = temporary();
    let (sender, ends) = crossbeam_channel::unbounded();
    let node = start(dir.path(), 1, move |_, _| {
        let sender = sender.clone();
        closure_core(move |_, event, effects, _| match event {
            Event::Frame { connection, frame } => {
                effects.push(respond(connection, frame));
                let reason = "a test".to_owned();
                effects.push(Effect::Close { connection, reason: reason.clone() });
                // Neither may do anything to a connection that is closing or gone.
                effects.push(Effect::SetReading { connection, reading: false });
                effects.push(Effect::Close { connection: ConnectionId(u64::MAX), reason });
            }
            Event::Connected { client_host, .. } => assert_eq!(client_host, "/127.0.0.1"),
            Event::Disconnected { connection } => sender.send(connection).expect("the test listens"),
            _ => {}
        })
    });
    let large = patterned(5_000_000, 1);
    let mut closed_by_shard = connect(&node);
    let mut writer = closed_by_shard.try_clone().expect("cloned");
    let sending = std::thread::spawn({
        let large = large.clone();
        move || send(&mut writer, &large)
    });
    assert!(receive(&mut closed_by_shard) == large);
    assert!(is_closed(&mut closed_by_shard));
    sending.join().expect("sent");
    drop(connect(&node));
    let mut ended: Vec<_> = (0..2).map(|_| ends.recv_timeout(PATIENCE).expect("an end")).collect();
    ended.sort();
    assert_eq!(ended, [ConnectionId(0), ConnectionId(1)]);
    let _open_at_the_end = connect(&node);
    assert_eq!(node.stop(), Exit::Finished);
    assert_eq!(ends.try_iter().count(), 0);
}

#[test]
fn requests_beyond_the_memory_bound_wait_and_all_complete() {
    const REQUEST_BYTES: usize = 70 << 20;
    let dir = temporary();
    let node = start(dir.path(), 1, |_, _| {
        closure_core(|_, event, effects, _| {
            if let Event::Frame { connection, frame } = event {
                effects.push(respond(connection, BytesMut::from(&frame.len().to_be_bytes()[..])));
            }
        })
    });
    let mut halves: Vec<_> = (0..3).map(|_| connect(&node)).collect();
    let request = vec![1; REQUEST_BYTES];
    std::thread::scope(|scope| {
        for stream in &mut halves {
            // All three together are more than may be under way.
            let wire = framed(&request);
            scope.spawn(move || {
                stream.write_all(&wire).expect("sent");
                assert_eq!(receive(stream), REQUEST_BYTES.to_be_bytes());
            });
        }
    });
    let mut small = connect(&node);
    send(&mut small, b"x");
    assert_eq!(receive(&mut small), 1usize.to_be_bytes());
    assert_eq!(node.stop(), Exit::Finished);
}

#[test]
fn unfinished_requests_beyond_the_memory_bound_do_not_hold_up_small_ones() {
    const CLAIMED_BYTES: u32 = 100 << 20;
    let dir = temporary();
    let node = start(dir.path(), 1, echo_core);
    let mut small = connect(&node);
    let mut halves: Vec<_> = (0..2).map(|_| connect(&node)).collect();
    for stream in &mut halves {
        stream.write_all(&CLAIMED_BYTES.to_be_bytes()).expect("sent");
        stream.set_nonblocking(true).expect("set");
    }
    // More than the node takes of both together; the one that may go on beyond the bound leaves a byte out.
    let block = vec![1; 1 << 20];
    let mut left = [CLAIMED_BYTES as usize - 1; 2];
    let mut refused_since = std::time::Instant::now();
    while left.iter().any(|left| *left > 0) && refused_since.elapsed() < Duration::from_secs(1) {
        for (stream, left) in halves.iter_mut().zip(&mut left) {
            if let Ok(sent) = stream.write(&block[..block.len().min(*left)])
                && sent > 0
            {
                *left -= sent;
                refused_since = std::time::Instant::now();
            }
        }
    }
    assert!(left.iter().any(|left| *left > 0), "the node takes no more than it may");
    for mut stream in [small.try_clone().expect("cloned"), connect(&node)] {
        send(&mut stream, b"x");
        assert_eq!(receive(&mut stream), b"x");
    }
    send(&mut small, &patterned(60_000, 1));
    assert!(receive(&mut small) == patterned(60_000, 1), "a request of some size passes too");
    drop(halves);
    assert_eq!(node.stop(), Exit::Finished);
}
