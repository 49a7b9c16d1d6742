//! `imap_capabilities`, `imap_auth`, `imap_client_buffer`: what an IMAP client sees before it logs in.

use bytes::Bytes;
use tidegate_core::conf::directive::{Arity, Directive, Feature, Levels, Set};
use tidegate_core::conf::{Setting, Word};
use tidegate_core::inherit;
use tidegate_mail_wire::dialogue::{Config, StartTls};
use tidegate_mail_wire::imap::DEFAULT_CAPABILITIES;
use tidegate_mail_wire::sasl::{Mechanism, Mechanisms};

/// nginx's default: one page.
const BUFFER: u64 = 4096;

/// The settings of one block.
#[derive(Default)]
pub struct ImapConf {
    capabilities: Vec<Word>,
    mechanisms: Vec<Mechanism>,
    client_buffer: Setting<u64>,
}

inherit!(ImapConf { capabilities, mechanisms, client_buffer });

/// `imap_capabilities` and its neighbours
pub struct Imap;

const ANYWHERE: Levels = Levels::PROTOCOL.or(Levels::SERVER);

impl Feature for Imap {
    type Conf = ImapConf;
    const NAME: &'static str = "imap";
    const DIRECTIVES: &'static [Directive<ImapConf>] = &[
        Directive {
            name: "imap_capabilities",
            levels: ANYWHERE,
            arity: Arity::AtLeast(1),
            set: Set::With(|conf, line| {
                conf.capabilities.extend(line.args().iter().cloned());
                Ok(())
            }),
            doc: "What CAPABILITY announces, besides the mechanisms and STARTTLS.",
        },
        Directive {
            name: "imap_auth",
            levels: ANYWHERE,
            arity: Arity::AtLeast(1),
            set: Set::With(|conf, line| {
                for word in line.args() {
                    conf.mechanisms.push(mechanism(word).ok_or_else(|| format!("invalid value \"{word}\""))?);
                }
                Ok(())
            }),
            doc: "The mechanisms announced; cram-md5 and external are refused unless named.",
        },
        Directive {
            name: "imap_client_buffer",
            levels: ANYWHERE,
            arity: Arity::Exactly(1),
            set: Set::Size(|conf| &mut conf.client_buffer),
            doc: "The most bytes that one command may have, and that are read from a client at once.",
        },
    ];
}

fn mechanism(word: &Word) -> Option<Mechanism> {
    match word.bytes() {
        b"plain" => Some(Mechanism::Plain),
        b"login" => Some(Mechanism::Login),
        b"cram-md5" => Some(Mechanism::CramMd5),
        b"external" => Some(Mechanism::External),
        _ => None,
    }
}

impl ImapConf {
    /// The settings of the dialogue with a client.
    pub fn dialogue(&self, starttls: StartTls, max_errors: u32) -> Config {
        let defaults = || DEFAULT_CAPABILITIES.iter().map(|name| Bytes::from_static(name.as_bytes())).collect();
        let own: Vec<Bytes> = self.capabilities.iter().map(|word| Bytes::copy_from_slice(word.bytes())).collect();
        Config {
            capabilities: if own.is_empty() { defaults() } else { own },
            mechanisms: self.mechanisms(),
            starttls,
            max_errors,
            buffer: usize::try_from(self.client_buffer.or(BUFFER)).unwrap_or(usize::MAX),
        }
    }

    fn mechanisms(&self) -> Mechanisms {
        if self.mechanisms.is_empty() {
            return Mechanisms { plain: true, ..Mechanisms::default() };
        }
        let has = |mechanism| self.mechanisms.contains(&mechanism);
        Mechanisms {
            plain: has(Mechanism::Plain),
            login: has(Mechanism::Login),
            cram_md5: has(Mechanism::CramMd5),
            external: has(Mechanism::External),
        }
    }
}
