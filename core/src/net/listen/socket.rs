//! Listening sockets: their options, and how they are opened.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::Address;

/// `so_keepalive`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// Off.
    Off,
    /// On, with what is given instead of the system's defaults.
    On {
        /// Idle time before the first probe.
        idle: Option<Duration>,
        /// Time between probes.
        interval: Option<Duration>,
        /// Probes before giving up.
        count: Option<u32>,
    },
}

/// How a socket is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// `backlog`
    pub backlog: Option<i32>,
    /// `rcvbuf`
    pub receive_buffer: Option<usize>,
    /// `sndbuf`
    pub send_buffer: Option<usize>,
    /// `ipv6only`; on unless said otherwise.
    pub ipv6_only: Option<bool>,
    /// `reuseport`
    pub reuse_port: bool,
    /// `so_keepalive`
    pub keep_alive: Option<KeepAlive>,
    /// `fastopen`: how many connections may have sent data before their handshake is complete.
    pub fast_open: Option<usize>,
    /// `deferred`: a connection is accepted when it has sent something.
    pub deferred: bool,
    /// `multipath`: Multipath TCP, where the system has it.
    pub multipath: bool,
    /// `bind`, or anything else that needs a socket of its own.
    pub bind: bool,
}

/// Opens a listening socket.
///
/// # Errors
/// nginx's words: `bind() to ADDRESS failed (CODE: TEXT)`.
pub fn open(address: &Address, options: &SocketOptions) -> Result<OwnedFd, (String, io::Error)> {
    let step = |call: &str| {
        let what = format!("{call} to {address} failed");
        move |error: io::Error| (format!("{what} ({})", crate::log::os_error(&error)), error)
    };
    let target = address.to_socket_address().map_err(step("socket()"))?;
    let protocol = match address {
        Address::Inet(_) if options.multipath => Some(Protocol::MPTCP),
        Address::Inet(_) => Some(Protocol::TCP),
        Address::Unix(_) => None,
    };
    let socket =
        Socket::new(target.domain(), Type::STREAM.nonblocking().cloexec(), protocol).map_err(step("socket()"))?;
    if matches!(address, Address::Inet(_)) {
        socket.set_reuse_address(true).map_err(step("setsockopt(SO_REUSEADDR)"))?;
    }
    if options.reuse_port {
        socket.set_reuse_port(true).map_err(step("setsockopt(SO_REUSEPORT)"))?;
    }
    if target.domain() == Domain::IPV6 {
        socket.set_only_v6(options.ipv6_only.unwrap_or(true)).map_err(step("setsockopt(IPV6_V6ONLY)"))?;
    }
    configure(&socket, options).map_err(step("setsockopt()"))?;
    socket.bind(&target).map_err(step("bind()"))?;
    if let Address::Unix(path) = address {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666));
    }
    socket.listen(options.backlog.unwrap_or(511)).map_err(step("listen()"))?;
    Ok(socket.into())
}

/// Applies what may be changed on an open socket.
///
/// # Errors
/// Those of setsockopt(2).
pub fn configure(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    if let Some(size) = options.receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    if let Some(size) = options.send_buffer {
        socket.set_send_buffer_size(size)?;
    }
    if socket.domain()? != Domain::UNIX {
        if let Some(most) = options.fast_open {
            setsockopt(socket, FastOpen, &most)?;
        }
        if options.deferred {
            setsockopt(socket, DeferAccept, &true)?;
        } else {
            // The socket may be one that is kept, and had it before. Not every kind of socket can be asked.
            let _ = setsockopt(socket, DeferAccept, &false);
        }
    }
    match options.keep_alive {
        None => {}
        Some(KeepAlive::Off) => socket.set_keepalive(false)?,
        Some(KeepAlive::On { idle, interval, count }) => {
            let mut keepalive = socket2::TcpKeepalive::new();
            if let Some(idle) = idle {
                keepalive = keepalive.with_time(idle);
            }
            if let Some(interval) = interval {
                keepalive = keepalive.with_interval(interval);
            }
            if let Some(count) = count {
                keepalive = keepalive.with_retries(count);
            }
            socket.set_tcp_keepalive(&keepalive)?;
        }
    }
    Ok(())
}

sockopt_impl!(
    /// How many connections may have sent data before their handshake is complete.
    FastOpen,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_FASTOPEN,
    usize
);
sockopt_impl!(
    /// Seconds that the system waits for something to be sent; nginx: one.
    DeferAccept,
    SetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    bool
);
