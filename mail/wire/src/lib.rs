//! IMAP pre-login dialogues as machines; no I/O.
