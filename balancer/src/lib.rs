//! Upstream groups, peers, leases, passive health and balancing methods; knows no protocol.
