//! mat-mapd as its users meet it: the real binary on loopback, spoken to by real
//! `dig` and `nsupdate`, by the project's own client, and by nobody's friend.

mod cli;
mod client;
mod cookies;
mod dnssec;
mod durability;
mod files;
mod harness;
mod hostile;
mod past;
mod privacy;
mod push;
mod race;
mod signatures;
mod tools;
