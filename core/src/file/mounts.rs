//! Which mounted file systems may make even a cached file wait, kept up to date with the table of mounts.
//!
//! What a disk holds can be opened without waiting once its name is cached. A file system that asks a server (NFS, FUSE)
//! may ask it for every open(2), fstat(2) and close(2), whatever is cached. docs/decisions/0007-files.md has the reasons.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::pool;

/// Where the kernel shows the mounts of this process.
const TABLE: &str = "/proc/self/mountinfo";
/// A table that is longer is not used: then all files are left to the threads.
const LONGEST: u64 = 16 << 20;

/// What is to be expected of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its files are memory, or made up by the kernel when they are read: nothing to wait for.
    Memory,
    /// Its files are on a device, and opened in memory once their names are cached.
    Local,
    /// Anything may wait, or nothing is known about it.
    Remote,
}

impl Kind {
    fn of(file_system: &[u8]) -> Kind {
        match file_system {
            b"tmpfs" | b"ramfs" | b"rootfs" | b"devtmpfs" | b"proc" | b"sysfs" | b"cgroup" | b"cgroup2" | b"devpts"
            | b"mqueue" | b"hugetlbfs" | b"debugfs" | b"tracefs" | b"securityfs" | b"configfs" | b"bpf" | b"pstore"
            | b"nsfs" | b"binfmt_misc" | b"efivarfs" | b"selinuxfs" | b"fusectl" | b"rpc_pipefs" | b"nfsd" => {
                Kind::Memory
            }
            // autofs holds nothing but places to mount at; who comes upon one that is empty is not served from the cache.
            b"autofs" => Kind::Memory,
            b"ext2" | b"ext3" | b"ext4" | b"xfs" | b"btrfs" | b"bcachefs" | b"f2fs" | b"zfs" | b"jfs" | b"nilfs2"
            | b"reiserfs" | b"overlay" | b"squashfs" | b"erofs" | b"cramfs" | b"iso9660" | b"udf" | b"vfat"
            | b"exfat" | b"ntfs3" | b"hfsplus" => Kind::Local,
            _ => Kind::Remote,
        }
    }
}

/// The mounts, by their numbers in the kernel.
#[derive(Debug, Default)]
pub struct Table {
    kinds: Vec<(u64, Kind)>,
    all_local: bool,
}

impl Table {
    fn parse(text: &[u8]) -> Table {
        let rows = text.split(|byte| *byte == b'\n').filter(|row| !row.is_empty()).map(parse_row);
        let Some(mut kinds) = rows.collect::<Option<Vec<_>>>() else { return Table::default() };
        kinds.sort_unstable_by_key(|(mount, _)| *mount);
        let all_local = !kinds.is_empty() && kinds.iter().all(|(_, kind)| *kind != Kind::Remote);
        Table { kinds, all_local }
    }

    fn read() -> io::Result<Table> {
        let mut text = Vec::new();
        File::open(TABLE)?.take(LONGEST).read_to_end(&mut text)?;
        let is_whole = u64::try_from(text.len()).is_ok_and(|length| length < LONGEST);
        Ok(if is_whole { Table::parse(&text) } else { Table::default() })
    }

    /// The kind of a mount; [`Kind::Remote`] if it is not in the table.
    pub fn kind(&self, mount: u64) -> Kind {
        let found = self.kinds.binary_search_by_key(&mount, |(mount, _)| *mount).ok();
        found.and_then(|at| self.kinds.get(at)).map_or(Kind::Remote, |(_, kind)| *kind)
    }

    /// True when no path can lead to a file system that may wait for a server.
    pub fn is_all_local(&self) -> bool {
        self.all_local
    }
}

/// `36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/root rw`: number and type (proc_pid_mountinfo(5)).
fn parse_row(row: &[u8]) -> Option<(u64, Kind)> {
    let mut words = row.split(|byte| *byte == b' ');
    let mount = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    // Blanks in paths are escaped, so the dash stands alone only where the optional fields end.
    words.by_ref().find(|word| *word == b"-")?;
    let file_system = words.next()?;
    Some((mount, Kind::of(file_system)))
}

thread_local! {
    /// Nothing is known before [`watch`] begins, and while the table is being read anew.
    static CURRENT: RefCell<Arc<Table>> = RefCell::default();
}

/// The table in force.
pub fn current() -> Arc<Table> {
    CURRENT.with_borrow(Clone::clone)
}

/// Looks at the table in force without taking part in it.
pub fn look<T>(look: impl FnOnce(&Table) -> T) -> T {
    CURRENT.with_borrow(|table| look(table))
}

/// Reads the table, and again whenever something has been mounted or unmounted. Without /proc nothing is ever known, and
/// all files are left to the threads.
pub(super) async fn watch() {
    #[allow(deprecated, reason = "sound for a File, whose descriptor stays the same; what takes its place is unsafe")]
    let watched = File::open(TABLE).and_then(|file| AsyncFd::with_interest(file, Interest::PRIORITY));
    let Ok(watched) = watched else { return };
    if let Ok(table) = Table::read() {
        CURRENT.set(Arc::new(table));
    }
    while let Ok(mut changed) = watched.ready(Interest::PRIORITY).await {
        changed.clear_ready();
        CURRENT.set(Arc::default());
        // A thread reads it: where thousands are mounted it is long.
        if let Ok(reading) = pool::run(Table::read)
            && let Ok(table) = reading.await
        {
            CURRENT.set(Arc::new(table));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                         27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
                         25 24 0:23 / /dev/a\\040- rw - tmpfs tmpfs rw,size=24684096k\n";

    #[test]
    fn mounts_are_told_apart() {
        let table = Table::parse(LOCAL.as_bytes());
        assert!(table.is_all_local());
        assert_eq!([22, 25, 27, 28].map(|mount| table.kind(mount)), {
            [Kind::Memory, Kind::Memory, Kind::Local, Kind::Remote]
        });
    }

    #[test]
    fn one_remote_mount_is_enough_to_be_careful() {
        for file_system in ["fuse.sshfs", "fuse", "nfs4", "cifs", "9p", "virtiofs", "ceph", "tomorrowfs"] {
            let table = Table::parse(format!("{LOCAL}30 27 0:40 / /far rw - {file_system} x rw\n").as_bytes());
            assert!(!table.is_all_local(), "{file_system}");
            assert_eq!((table.kind(30), table.kind(27)), (Kind::Remote, Kind::Local));
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_believed() {
        for text in ["", "x y z - ext4\n", "27 1 254:0 / / rw ext4 /dev/vda rw\n", "27 1 254:0 / / rw -"] {
            let table = Table::parse(text.as_bytes());
            assert!(!table.is_all_local(), "{text}");
            assert_eq!(table.kind(27), Kind::Remote);
        }
    }

    #[test]
    fn the_root_of_this_machine_is_found() {
        let table = Table::read().unwrap();
        assert!(!table.kinds.is_empty());
    }
}
