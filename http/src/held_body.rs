//! The body of a request that is read before anybody is asked: in memory as long as it fits there, then in a file.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Check, ConfigError, Setting};
use tidegate_core::file::folder::{Folder, WrittenFolder};
use tidegate_core::file::temp::{Naming, Spool, Written};
use tidegate_core::inherit;
use tidegate_core::log;
use tidegate_core::module::{Install, Module};
use tidegate_core::subject::Subject;
use tidegate_http_wire::Version;
use tidegate_http_wire::framing::Framing;

use crate::exchange::Exchange;
use crate::held::Held;
use crate::plan::Plan;
use crate::presence;
use crate::request_body::{self, BodyFault};

/// `client_body_in_file_only`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InFile {
    /// What does not fit into memory.
    #[default]
    Rest,
    /// Everything; the file is gone at the end of the request.
    Clean,
    /// Everything; the file stays.
    Keep,
}

/// The settings of one block.
#[derive(Default)]
pub struct BodyFilesConf {
    folder: Setting<WrittenFolder>,
    in_file: Setting<InFile>,
}

inherit!(BodyFilesConf { folder, in_file });

/// Request bodies in files
pub struct BodyFiles;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER).or(Levels::LOCATION);

impl Feature for BodyFiles {
    type Conf = BodyFilesConf;
    const NAME: &'static str = "request bodies in files";
    const DIRECTIVES: &'static [Directive<BodyFilesConf>] = &[
        Directive {
            name: "client_body_temp_path",
            levels: ANYWHERE,
            arity: Arity::Between(1, 4),
            set: Set::With(|conf, line| conf.folder.set(WrittenFolder::parse(line)?)),
            doc: "The folder of request bodies that do not fit into memory, and the lengths of the levels below it.",
        },
        Directive {
            name: "client_body_in_file_only",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::With(|conf, line| {
                let choice = line.choice(&[("on", InFile::Keep), ("clean", InFile::Clean), ("off", InFile::Rest)])?;
                conf.in_file.set(choice)
            }),
            doc: "Whether every request body is written to a file: on keeps it, clean removes it with the request.",
        },
        Directive {
            name: "client_body_in_single_buffer",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Checked(Check::Flag),
            doc: "What is held of a body in memory is always in one piece.",
        },
    ];
}

impl Module<Exchange> for BodyFiles {
    fn install(conf: &BodyFilesConf, plan: &mut Plan, env: &mut Install<'_, Exchange>) -> Result<(), ConfigError> {
        let bodies = Bodies { written: conf.folder.get().cloned(), in_file: conf.in_file.or(InFile::Rest) };
        if bodies.written.is_some() {
            bodies.place(env)?;
        }
        plan.parts.put(bodies);
        Ok(())
    }
}

/// What a block says of request bodies. The folder is made only where something needs it.
#[derive(Clone, Debug, Default)]
struct Bodies {
    written: Option<WrittenFolder>,
    in_file: InFile,
}

/// Where the bodies that are held in a block go.
///
/// # Errors
/// The folder has other levels elsewhere.
pub fn place(plan: &Plan, env: &Install<'_, Exchange>) -> Result<BodyPlace, ConfigError> {
    plan.parts.get::<Bodies>().unwrap_or(&Bodies::default()).place(env)
}

impl Bodies {
    fn place(&self, env: &Install<'_, Exchange>) -> Result<BodyPlace, ConfigError> {
        let folder = env.folders.find(self.written.as_ref(), "client_body_temp", env.setup)?;
        if self.in_file == InFile::Clean {
            folder.expect_names();
        }
        Ok(BodyPlace { folder, in_file: self.in_file })
    }
}

/// Where bodies that are held go.
#[derive(Clone, Debug)]
pub struct BodyPlace {
    folder: Arc<Folder>,
    in_file: InFile,
}

impl BodyPlace {
    /// A file for a body. nginx: it has a name that others can open where it is asked for.
    fn spool(&self) -> Spool {
        let naming = match self.in_file {
            InFile::Rest => Naming::Nameless,
            InFile::Clean => Naming::Named,
            InFile::Keep => Naming::Kept,
        };
        Spool::new(self.folder.clone(), naming)
    }
}

/// Reads all of the body, if that has not happened before, and leaves it with the exchange.
///
/// # Errors
/// See [`whole`].
pub async fn hold(exchange: &Exchange, place: &BodyPlace) -> Result<(), BodyFault> {
    if exchange.head.framing == Framing::None || exchange.body.borrow().complete {
        return Ok(());
    }
    request_body::welcome(exchange).await?;
    let held = whole(exchange, place).await?;
    *exchange.body.borrow_mut() = held;
    Ok(())
}

/// What has arrived of the body, without waiting for more: for a content handler that passes it on as it comes.
///
/// # Errors
/// See [`request_body::next`].
pub fn arrived(exchange: &Exchange) -> Result<Held, BodyFault> {
    let mut memory = BytesMut::new();
    let complete = loop {
        match request_body::next_arrived(exchange)? {
            Some(data) => memory.extend_from_slice(&data),
            None => break exchange.carrier.is_taken(),
        }
    };
    Ok(Held { memory: memory.freeze(), file: None, complete })
}

/// Reads all of the body.
///
/// # Errors
/// See [`request_body::next`]; [`BodyFault::Storage`] when a file is needed that cannot be written. It has been logged.
pub async fn whole(exchange: &Exchange, place: &BodyPlace) -> Result<Held, BodyFault> {
    let buffer = exchange.plan().settings.client_body_buffer_size;
    let in_file_only = place.in_file != InFile::Rest;
    let room = room(exchange.head.version, exchange.head.framing, buffer);
    let mut memory = Gathered::default();
    let mut spool: Option<Spool> = None;
    while !exchange.carrier.is_taken() {
        let Some(data) = request_body::next(exchange).await? else { break };
        memory.add(data);
        // nginx: a file is begun when there is no more room, and then written whenever the buffer is full.
        let is_in_file = spool.is_some() || in_file_only;
        if (is_in_file && memory.len() >= buffer) || (!is_in_file && memory.len() > room) {
            let spool = spool.get_or_insert_with(|| place.spool());
            Box::pin(write(exchange, place, spool, memory.take())).await?;
        }
    }
    if spool.is_none() && !in_file_only {
        return Ok(Held { memory: memory.take(), file: None, complete: true });
    }
    let mut spool = spool.unwrap_or_else(|| place.spool());
    if spool.file().is_none() || memory.len() > 0 {
        Box::pin(write(exchange, place, &mut spool, memory.take())).await?;
    }
    let file = spool.file().map(|file| (file.clone(), spool.len()));
    Ok(Held { memory: Bytes::new(), file, complete: true })
}

/// How much of a body may stay in memory. nginx: of HTTP/1 one that is announced as hardly longer than the buffer, too.
fn room(version: Version, framing: Framing, buffer: usize) -> usize {
    match framing {
        Framing::Length(length) if version < Version::Http2 => match usize::try_from(length) {
            Ok(length) if length < buffer.saturating_add(buffer / 4) => length.max(buffer),
            _ => buffer,
        },
        _ => buffer,
    }
}

/// Has a thread write, and waits for it.
async fn write(exchange: &Exchange, place: &BodyPlace, spool: &mut Spool, memory: Bytes) -> Result<(), BodyFault> {
    let begun = spool.write(vec![memory]);
    let done = match begun {
        Ok(()) => presence::unless_given_up(exchange, poll_fn(|cx| spool.poll_written(cx))).await,
        Err(error) => Some(Err(error)),
    };
    match done {
        Some(Ok(Written::There)) => {}
        Some(Ok(Written::First)) => {
            let path = spool.file().map(|file| file.path().display().to_string()).unwrap_or_default();
            let text = format!("a client request body is buffered to a temporary file {path}");
            match place.in_file {
                InFile::Rest => log!(exchange.logger(), Warn, "{text}"),
                InFile::Clean | InFile::Keep => log!(exchange.logger(), Notice, "{text}"),
            }
        }
        Some(Err(error)) => {
            log!(exchange.logger(), Crit, "{error}");
            return Err(BodyFault::Storage);
        }
        None => return Err(BodyFault::Gone),
    }
    Ok(())
}

/// Pieces that come to lie together; the first is not copied as long as it is alone.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    more: BytesMut,
}

impl Gathered {
    fn len(&self) -> usize {
        self.first.len() + self.more.len()
    }

    fn add(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        if self.more.is_empty() {
            self.more.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.more.extend_from_slice(&data);
    }

    fn take(&mut self) -> Bytes {
        if self.more.is_empty() { std::mem::take(&mut self.first) } else { std::mem::take(&mut self.more).freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_stay_in_memory() {
        for (framing, buffer, expected) in [
            (Framing::Chunked, 1000, 1000),
            (Framing::Length(0), 1000, 1000),
            (Framing::Length(1000), 1000, 1000),
            (Framing::Length(1001), 1000, 1001),
            (Framing::Length(1249), 1000, 1249),
            (Framing::Length(1250), 1000, 1000),
            (Framing::Length(u64::MAX), 1000, 1000),
            (Framing::Length(5), usize::MAX, usize::MAX),
        ] {
            assert_eq!(room(Version::Http11, framing, buffer), expected, "{framing:?}, {buffer}");
            assert_eq!(room(Version::Http2, framing, buffer), buffer, "{framing:?}, {buffer}");
        }
    }

    #[test]
    fn pieces_come_out_as_one() {
        for pieces in [&[][..], &["one"], &["", "one"], &["one", "two"], &["one", "", "two", "three"]] {
            let mut gathered = Gathered::default();
            pieces.iter().for_each(|piece| gathered.add(Bytes::from_static(piece.as_bytes())));
            let expected = pieces.concat();
            assert_eq!(gathered.len(), expected.len());
            assert_eq!(gathered.take(), expected);
            assert_eq!((gathered.len(), gathered.take()), (0, Bytes::new()));
        }
    }
}
