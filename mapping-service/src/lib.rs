//! The mapping service: where each home address is now, told and changed in DNS.
//!
//! Forwarders need one directory that says where a home address is, that two
//! sites cannot both win, and that any tool can read and write. This is it, in
//! plain DNS: one SVCB RRset per home address ([`mat_proto::record`]), read by
//! queries, changed by RFC 2136 updates signed with TSIG (RFC 8945). `dig` and
//! `nsupdate` are enough to read, claim, move and delete a binding:
//!
//! ```text
//! $ dig @203.0.113.53 10.2.0.192.h4.map.example. SVCB
//! $ nsupdate -k site-a.key
//! > server 203.0.113.53
//! > zone map.example.
//! > prereq yxrrset 10.2.0.192.h4.map.example. SVCB 1 . port=6283 ipv4hint=198.51.100.7 key65280="1795420470" key65281="native" key65282="30"
//! > update delete 10.2.0.192.h4.map.example. SVCB
//! > update add 10.2.0.192.h4.map.example. 0 SVCB 1 . port=6283 ipv4hint=203.0.113.7 key65280="1795420471" key65281="native" key65282="30"
//! > send
//! ```
//!
//! The prerequisite makes it a compare-and-swap: it holds only if the RRset is
//! exactly what is written there, so of several who move one binding at the same
//! time exactly one succeeds and the others get NXRRSET.
//!
//! What it promises beyond a stock server:
//! * an update is checked and applied as one step, and answered only when it is
//!   on disk; kill -9 loses nothing that was acknowledged;
//! * at a home address's owner stands a valid binding or nothing, and its epoch
//!   never falls, not even by delete-and-create;
//! * a key changes only its own homes and adds only its own locators;
//! * a captured update is not carried out again, and a retransmitted one gets
//!   the answer of the first copy, also after a restart.
//!
//! # Parts
//! ```text
//! zone      pure   records, look-up; update: RFC 2136; rules: what bindings need
//! policy    pure   which key may change what
//! replay    pure   signed updates seen
//! tsig      pure   keys, signing, verification
//! journal   disk   framed entries, torn ends, compaction
//! history   pure   what has changed of late, for secondaries
//! past      pure   who has changed which binding of late, for people
//! writer    thread check -> apply -> commit -> publish -> answer, in batches
//! server    wire   UDP, TCP and TLS, TSIG, cookies, limit, subscriptions, transfer whole (AXFR) or of
//!                  what changed (IXFR)
//! notify    wire   tells secondaries of changes, its pace pure
//! dso       pure   the messages of stateful operations and of push
//! dnssec    pure   signs answers as they are given, denies what is not there
//! push      pure   who has subscribed to what, and what waits for whom
//! config, daemon, metrics   mat-mapd
//! zonefile, offline  a zone as text, into the journal and out of it
//! client           for forwarders and matctl; also works against BIND and Knot
//! ```
//! `tests/conformance` puts BIND and Knot in mat-mapd's seat: the same messages,
//! the same answers, and the same zone; `tests/secondaries` has them and NSD follow it.
//!
//! # Limitations
//! One primary: secondaries answer, and changes wait for it. DNSSEC signs answers to questions,
//! neither transfers nor what is pushed. The whole zone is held in memory. Limits of single parts
//! are on their own page one.

pub mod client;
mod clock;
pub mod config;
pub mod daemon;
pub mod dnssec;
pub mod dso;
pub mod exercise;
pub mod history;
pub mod journal;
pub mod metrics;
pub mod notify;
pub mod offline;
pub mod past;
pub mod policy;
mod push;
pub mod replay;
pub mod server;
pub mod tsig;
pub mod writer;
pub mod zone;
pub mod zonefile;
