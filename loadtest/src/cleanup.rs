//! What a run must not leave behind: its broker processes, network and file systems. `panic = "abort"` skips destructors, so
//! they are noted here, and the panic hook ends them too.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

#[derive(Debug)]
struct Left {
    processes: Vec<u32>,
    namespaces: Vec<String>,
    mounts: Vec<PathBuf>,
    groups: Vec<PathBuf>,
}

static LEFT: Mutex<Left> = Mutex::new(Left {
    processes: Vec::new(),
    namespaces: Vec::new(),
    mounts: Vec::new(),
    groups: Vec::new(),
});

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

/// Notes a mounted file system, before it is mounted.
pub fn note_mount(folder: &Path) {
    left().mounts.push(folder.to_owned());
}

/// The file system has been unmounted.
pub fn forget_mount(folder: &Path) {
    left().mounts.retain(|other| other != folder);
}

/// Notes a control group, before it is made.
pub fn note_group(folder: &Path) {
    left().groups.push(folder.to_owned());
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
    // What was noted may not have been made: then there is nothing to remove.
    for namespace in left.namespaces.drain(..) {
        let _ = Command::new("ip").args(["netns", "del", &namespace]).output();
    }
    for folder in left.mounts.drain(..) {
        let _ = Command::new("umount").arg("--lazy").arg(&folder).output();
    }
    for folder in left.groups.drain(..) {
        remove_group(&folder);
    }
}

/// A control group can be removed once the kernel has taken leave of its last process.
fn remove_group(folder: &Path) {
    const ATTEMPTS_MAX: u32 = 100;
    for _ in 0..ATTEMPTS_MAX {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                thread::sleep(Duration::from_millis(20));
            }
            Ok(()) | Err(_) => return,
        }
    }
}

/// Makes a panic on any thread clean up before the process aborts.
pub fn install_panic_hook() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        run();
    }));
}
