//! Processes, sockets, configuration, variables, zones, TLS and logs; knows no protocol.
