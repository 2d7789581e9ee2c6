//! Stock servers as secondaries of mat-mapd: BIND, Knot and NSD, fetched by
//! `scripts/dns-servers`. Each starts empty, follows the primary by NOTIFY and IXFR, and ends
//! with exactly its zone. One that is not here is named; with `MAT_CONFORMANCE_ALL=1` that is a
//! failure.

mod follow;
mod forms;
mod prefixes;
mod servers;
mod told;

use servers::Kind;

async fn follows(kind: Kind) {
    if kind.is_here() {
        follow::follows(kind).await;
        prefixes::answers_for_prefixes(kind).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bind_follows() {
    follows(Kind::Bind).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn knot_follows() {
    follows(Kind::Knot).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nsd_follows() {
    follows(Kind::Nsd).await;
}
