//! Local sockets that a process which has died left behind in the file system, where they are in the way of the next.
//!
//! Such a socket is one that refuses: nobody listens on it. A socket that somebody has bound and is about to listen on
//! refuses as well, so it must also have been there for a while. What is no socket is never touched.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::{Domain, SockAddr, Socket, Type};

/// Between bind(2) and listen(2) no process takes as long.
const A_WHILE: Duration = Duration::from_secs(1);

/// A socket that nobody listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abandoned {
    device: u64,
    number: u64,
    changed: i64,
}

/// What lies at a path, when it is a socket that refuses.
pub fn at(path: &Path) -> Option<Abandoned> {
    let found = identify(path)?;
    (refuses(path) && identify(path) == Some(found)).then_some(found)
}

impl Abandoned {
    /// True when it is certain by itself that nobody is about to listen. Otherwise look again later: whoever finds the
    /// same socket refuse twice, half a second apart, knows as much.
    pub fn is_old(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed).unwrap_or(0));
        // The second in which it was changed may just be over.
        now.checked_sub(changed).is_some_and(|age| age > A_WHILE + Duration::from_secs(1))
    }

    /// Removes it. False when it is not what lies there any more, or may not be removed.
    pub fn remove(self, path: &Path) -> bool {
        identify(path) == Some(self) && std::fs::remove_file(path).is_ok()
    }
}

fn identify(path: &Path) -> Option<Abandoned> {
    let found = std::fs::symlink_metadata(path).ok().filter(|found| found.file_type().is_socket())?;
    Some(Abandoned { device: found.dev(), number: found.ino(), changed: found.ctime() })
}

/// True when nobody listens. Anything else that can go wrong, such as a queue that is full, is no reason to think so.
fn refuses(path: &Path) -> bool {
    let connect = || -> io::Result<()> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_abandoned() {
        let folder = std::env::temp_dir().join(format!("tidegate-stale-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = |name: &str| folder.join(name);
        let living = UnixListener::bind(path("living")).unwrap();
        drop(UnixListener::bind(path("dead")).unwrap());
        let datagrams = UnixDatagram::bind(path("datagrams")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        std::os::unix::fs::symlink(path("dead"), path("link")).unwrap();
        let bound = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        bound.bind(&SockAddr::unix(path("bound")).unwrap()).unwrap();
        for (name, expected) in [
            ("living", false),
            ("dead", true),
            ("datagrams", false),
            ("file", false),
            ("folder", false),
            ("link", false),
            ("missing", false),
            ("bound", true),
        ] {
            assert_eq!(at(&path(name)).is_some(), expected, "{name}");
        }
        // Somebody may be about to listen there.
        let found = at(&path("bound")).unwrap();
        assert!(!found.is_old());
        assert!(Abandoned { changed: found.changed - 10, ..found }.is_old());
        assert!(!Abandoned { number: found.number + 1, ..found }.remove(&path("bound")));
        assert!(found.remove(&path("bound")) && !path("bound").exists());
        drop((living, datagrams));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
