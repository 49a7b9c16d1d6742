//! The public traits of a response store; knows no protocol.
