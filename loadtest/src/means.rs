//! What a run makes for itself on the machine before its nodes start.

use std::{io, path::Path};

use crate::{
    command, disks::Disks, error::LoadtestError, network::Network, scenario::Need, wall_clock::WallClocks,
};

/// Each as far as the run needs it.
#[derive(Debug, Default)]
pub struct Means {
    /// Namespaces, and what joins them.
    pub network: Option<Network>,
    /// A file system for each node.
    pub disks: Option<Disks>,
    /// Clocks of the day.
    pub clocks: Option<WallClocks>,
}

impl Means {
    /// Makes what is needed, below `folder` where it takes space.
    ///
    /// # Errors
    ///
    /// [`LoadtestError`] of what cannot be made though nothing seemed to be in its way.
    pub fn create(needs: &[Need], nodes: u8, folder: &Path, seed: u64) -> Result<Means, LoadtestError> {
        let needs = |need| needs.contains(&need);
        let (needs_network, needs_disks) =
            (needs(Need::Network), needs(Need::Disks) || needs(Need::SlowDisks));
        if needs_network || needs_disks {
            own_mounts()?;
        }
        Ok(Means {
            network: if needs_network { Some(Network::create(nodes, seed)?) } else { None },
            disks: if needs_disks { Some(Disks::create(nodes, folder)?) } else { None },
            clocks: if needs(Need::Clocks) { Some(WallClocks::create(folder, nodes)?) } else { None },
        })
    }
}

/// From now on nobody else sees what is mounted here, and it goes with the last process of the run, also after
/// kill −9. Threads that run already do not take part.
fn own_mounts() -> Result<(), LoadtestError> {
    // SAFETY: a system call that takes no memory.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } < 0 {
        let what = "taking leave of the machine's mounts".to_owned();
        return Err(LoadtestError::Process { what, source: io::Error::last_os_error() });
    }
    command::run("mount", &["--make-rprivate", "/"]).map(drop)
}
