//! HTTP messages as bytes and values: parsing, framing, writing; no I/O.
