//! The mapping service and the forwarders together: `nsupdate` alone moves an instance, and
//! whoever has the wrong key, the wrong name or an old locator gets nothing. Needs root or a user
//! namespace: `scripts/privileged cargo test`.
//!
//! The network is that of [`mat_netns::testbed`]. Races for a name are tested with the mapping
//! service itself (`cargo test -p mat-mapping --test blackbox race`).

mod proved;
mod record;

mod by_hand;
mod keys;
mod others;
mod prefix;
mod prefixes;
mod reuse;
mod watch;
mod zones;
