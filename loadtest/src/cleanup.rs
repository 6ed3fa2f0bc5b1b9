//! What a run must not leave behind: its broker processes and its network. `panic = "abort"` skips destructors, so
//! they are noted here, and the panic hook ends them too.

use std::{
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process};

#[derive(Debug)]
struct Left {
    processes: Vec<u32>,
    namespaces: Vec<String>,
    links: Vec<String>,
}

static LEFT: Mutex<Left> =
    Mutex::new(Left { processes: Vec::new(), namespaces: Vec::new(), links: Vec::new() });

fn left() -> MutexGuard<'static, Left> {
    // The panic hook may run on the thread that held the lock; the lists are whole between any two statements.
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes a child of this process. Its id stays its own until it is awaited, which comes with [`forget_process`].
pub fn note_process(id: u32) {
    left().processes.push(id);
}

/// The child has been awaited, and its id may soon be another's.
pub fn forget_process(id: u32) {
    left().processes.retain(|&other| other != id);
}

/// Notes a network namespace, before it is made.
pub fn note_namespace(name: &str) {
    left().namespaces.push(name.to_owned());
}

/// Notes a link, before it is made.
pub fn note_link(name: &str) {
    left().links.push(name.to_owned());
}

/// Ends and removes everything noted so far.
pub fn run() {
    let Ok(mut left) = LEFT.try_lock() else {
        // A panic while the lists are changed: nothing but a push can be under way, and the kernel ends the children.
        return;
    };
    for process in left.processes.drain(..) {
        if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
            // It may have ended by itself, which is what is wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    for link in left.links.drain(..) {
        run_quietly(&["link", "del", &link]);
    }
    for namespace in left.namespaces.drain(..) {
        run_quietly(&["netns", "del", &namespace]);
    }
}

/// What was noted may not have been made: then there is nothing to remove.
fn run_quietly(arguments: &[&str]) {
    let _ = Command::new("ip").args(arguments).output();
}

/// Makes a panic on any thread clean up before the process aborts.
pub fn install_panic_hook() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        run();
    }));
}
