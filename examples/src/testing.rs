//! What the tests of the examples share: a block of the configuration, loaded and served on a real socket.

use std::cell::OnceCell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_core::build::{Build, Domain, Made};
use tidegate_core::conf::apply::Setup;
use tidegate_core::conf::known::Known;
use tidegate_core::conf::{Errors, Tree};
use tidegate_core::log::{ErrorLog, Level};
use tidegate_core::net::{Address, Connection, Connections, PeerInfo, Protocol, Timer, Transport};
use tokio::runtime::{Builder, LocalOptions};

/// Loads a block; its first address, or the first mistake.
pub fn load(domain: &dyn Domain, text: &str) -> Result<Rc<dyn Protocol>, String> {
    build(domain, text, &Made::default())
}

/// The same, beside what other blocks have made.
pub fn build(domain: &dyn Domain, text: &str, made: &Made) -> Result<Rc<dyn Protocol>, String> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("tidegate-example-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, text).unwrap();
    let mut errors = Errors::default();
    let tree = Tree::read(&file, None, &mut errors);
    std::fs::remove_file(&file).unwrap();
    let setup = Setup { prefix: "/".into(), conf_dir: "/".into(), known: Known::default() };
    let error_log = ErrorLog::stderr(Level::Crit);
    let mut build = Build::new(&setup, made, &mut errors, &error_log);
    domain.load(&tree.nodes[0], &mut build);
    let endpoints = build.endpoints;
    match errors.iter().next() {
        Some(error) => Err(error.message.clone()),
        None => Ok(endpoints[0].protocol.clone()),
    }
}

/// What a client gets that sends `input`, and no more after it, to a server of this block.
pub fn ask(domain: &dyn Domain, text: &str, input: &str) -> String {
    ask_of(load(domain, text).unwrap(), input)
}

/// The same of what has been loaded.
pub fn ask_of(protocol: Rc<dyn Protocol>, input: &str) -> String {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let input = input.to_owned();
        let client = thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.write_all(input.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut output = String::new();
            stream.read_to_string(&mut output).unwrap();
            output
        });
        let (stream, peer) = listener.accept().await.unwrap();
        let info = PeerInfo {
            number: 1,
            debugged: false,
            client: Address::Inet(peer),
            local: Address::Inet(address),
            accepted: Instant::now(),
            tls: OnceCell::new(),
        };
        let connection = Connection { transport: Transport::Tcp(stream), timer: Timer::default(), info: Rc::new(info) };
        let life = Connections::new(1).admit().unwrap();
        life.entering().await;
        protocol.serve(connection, life).await;
        client.join().unwrap()
    })
}
