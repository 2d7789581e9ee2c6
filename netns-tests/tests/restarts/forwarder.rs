//! `matd` goes away in the middle of a transfer and comes back.

use std::fs;

use anyhow::{Context, Result, ensure};
use mat_netns::Signal;
use mat_netns::testbed::SITES;

use crate::scene::Scene;

fn a_restart_loses_no_connection(signal: Signal) -> Result<()> {
    let mut scene = Scene::new()?;
    // The site of the server, then the peer's.
    for site in ["a", "c"] {
        scene.interrupt(site, signal)?;
        scene
            .nothing_leaked()
            .context(format!("while matd of {site} was away"))?;
        scene.bed.restart_matd(site)?;
        scene
            .flows()
            .context(format!("after matd of {site} was started again"))?;
    }
    scene.nothing_leaked()?;
    scene.finish(&format!("matd restarted after {signal}"))
}

#[test]
fn a_forwarder_killed_in_mid_transfer_and_started_again_loses_no_connection() -> Result<()> {
    a_restart_loses_no_connection(Signal::SIGKILL)
}

#[test]
fn a_forwarder_stopped_in_mid_transfer_and_started_again_loses_no_connection() -> Result<()> {
    a_restart_loses_no_connection(Signal::SIGTERM)
}

/// Without its state file the forwarder knows neither instance nor context. Once the instance is
/// attached again, packets in the middle of a stream come from a peer it has never heard of: it
/// has to ask for a new context before it delivers them.
fn a_cold_forwarder_opens_contexts_anew(site: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let instance = if site == "a" { &scene.web } else { &scene.user }.clone();
    scene.interrupt(site, Signal::SIGKILL)?;
    let state = scene.bed.lab.dir().join(format!("state-{site}/state.json"));
    fs::remove_file(&state).with_context(|| state.display().to_string())?;
    scene.bed.restart_matd(site)?;
    ensure!(scene.bed.home_state(site, &instance.home)? == "not attached");
    scene.bed.attach(&instance, site, &[])?;
    scene.flows()?;
    scene.finish(&format!("cold forwarder at {site}"))
}

#[test]
fn a_cold_forwarder_of_the_server_opens_contexts_anew() -> Result<()> {
    a_cold_forwarder_opens_contexts_anew("a")
}

#[test]
fn a_cold_forwarder_of_the_peer_opens_contexts_anew() -> Result<()> {
    a_cold_forwarder_opens_contexts_anew("c")
}

#[test]
fn all_forwarders_killed_at_once_and_started_again_lose_no_connection() -> Result<()> {
    let mut scene = Scene::new()?;
    for site in SITES {
        scene.bed.site(site.name).matd.kill()?;
    }
    scene.stands_still()?;
    scene.nothing_leaked()?;
    for site in SITES {
        scene.bed.restart_matd(site.name)?;
    }
    scene.flows()?;
    scene.nothing_leaked()?;
    // They remember enough to move the instance.
    scene.bed.move_instance(&scene.web, "b")?;
    scene.flows()?;
    scene.finish("all forwarders killed")
}

#[test]
fn the_old_site_may_die_as_soon_as_the_instance_has_left() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.bed.move_instance(&scene.web, "b")?;
    scene.bed.site("a").matd.kill()?;
    scene.flows()?;
    scene.bed.restart_matd("a")?;
    // It has forgotten that it was left, and serves nothing: the record names another place.
    for home in [&scene.web.home, &scene.web.home6] {
        let state = scene.bed.home_state("a", home)?;
        ensure!(state != "serving", "{home} is {state} at a");
    }
    scene.flows()?;
    scene.bed.move_instance(&scene.web, "c")?;
    scene.flows()?;
    scene.finish("the old site died")
}

#[test]
fn a_move_to_a_site_whose_forwarder_is_dead_changes_nothing() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.bed.site("b").matd.kill()?;
    let said = match scene.bed.move_instance(&scene.web, "b") {
        Ok(said) => anyhow::bail!("moved to nobody: {said}"),
        Err(error) => format!("{error:#}"),
    };
    println!("{said}");
    ensure!(said.contains("site b: no forwarder answers"), "{said}");
    scene.flows()?;
    scene.bed.restart_matd("b")?;
    scene.bed.move_instance(&scene.web, "b")?;
    scene.flows()?;
    scene.nothing_leaked()?;
    scene.finish("the new site was dead")
}
