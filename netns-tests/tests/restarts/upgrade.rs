//! `matd` is replaced by its successor in the middle of transfers, in the same process.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::testbed::{Options, Testbed, binaries};
use mat_netns::{Signal, wait_until};
use serde_json::Value;
use tempfile::TempDir;

use crate::api;
use crate::scene::Scene;

/// Longer than the grace of a move, too.
const SOON: Duration = Duration::from_secs(30);
/// The aim is 50 ms; on a machine that does other things the start of a program alone can take
/// longer than that, so only what would be a defect on any machine fails.
const TOLERANCE_MS: f64 = 1000.0;

/// What the successor says once it reads the TUN, and once everything works.
const TOOK_OVER: &str = "took over";
const READY: &str = "ready, control socket";

/// Copies of the programs, which may be replaced.
struct Installed {
    folder: TempDir,
}

impl Installed {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for name in ["matd", "mat-mapd", "matctl"] {
            fs::copy(binaries()?.join(name), folder.path().join(name))?;
        }
        Ok(Installed { folder })
    }

    fn options(&self) -> Result<Options> {
        Ok(Options {
            binaries: self.folder.path().to_owned(),
            ..Options::new()?
        })
    }

    fn matd(&self) -> PathBuf {
        self.folder.path().join("matd")
    }

    /// Puts a new file in the place of `matd`, as an installation does, and gives back its inode.
    fn replace(&self, content: &[u8]) -> Result<u64> {
        let fresh = self.folder.path().join("matd.new");
        fs::write(&fresh, content)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
        fs::rename(&fresh, self.matd())?;
        Ok(fs::metadata(self.matd())?.ino())
    }
}

/// The inode of the file that the forwarder of `site` runs.
fn running(bed: &Testbed, site: &str) -> Result<u64> {
    let exe = format!("/proc/{}/exe", bed.site(site).matd.pid());
    let exe = fs::metadata(&exe).context(exe)?;
    Ok(exe.ino())
}

/// Waits until the forwarder of `site` has said `what` so many times.
fn wait_for(bed: &Testbed, site: &str, what: &str, times: usize) -> Result<()> {
    let matd = &bed.site(site).matd;
    wait_until(SOON, format!("{what:?} at {site}, {times} times"), || {
        (matd.log().matches(what).count() >= times).then_some(())
    })
    .with_context(|| matd.log_tail())
}

/// Nothing was lost, and nobody waited long.
fn unnoticed(report: &Value) -> Result<()> {
    let udp = &report["udp"];
    ensure!(udp["lost"] == 0, "datagrams were lost: {udp:#}");
    for (part, name) in [("udp", "longest_gap_ms"), ("tcp", "longest_stall_ms")] {
        let ms = report[part][name].as_f64();
        ensure!(ms < Some(TOLERANCE_MS), "{name} is {ms:?}");
    }
    Ok(())
}

/// Asks a forwarder again and again, each time on a connection of its own, until told to stop.
fn ask(bed: &Testbed, site: &str, stop: &AtomicBool, answers: &AtomicUsize) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let status = api::get(&bed.site(site).socket, "status")?;
        ensure!(status["site"] == site, "{status}");
        answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn an_upgrade_in_mid_transfer_loses_nothing() -> Result<()> {
    let installed = Installed::new()?;
    let content = fs::read(installed.matd())?;
    let scene = Scene::on(Testbed::new(installed.options()?)?)?;
    let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| -> Result<()> {
        let asking = scope.spawn(|| ask(&scene.bed, "a", &stop, &answers));
        let upgraded = upgrades(&scene, &installed, &content, &answers);
        stop.store(true, Ordering::Relaxed);
        let asked = asking.join().expect("asking does not panic");
        asked.and(upgraded)
    })?;
    scene.nothing_leaked()?;
    scene.finish_and_judge("matd upgraded in place", unnoticed)
}

/// Twice each site, in turns.
fn upgrades(
    scene: &Scene,
    installed: &Installed,
    content: &[u8],
    answers: &AtomicUsize,
) -> Result<()> {
    for times in [1, 2] {
        for site in ["a", "c"] {
            let matd = &scene.bed.site(site).matd;
            let file = installed.replace(content)?;
            ensure!(running(&scene.bed, site)? != file);
            let before = answers.load(Ordering::Relaxed);
            matd.signal(Signal::SIGUSR2)?;
            wait_for(&scene.bed, site, READY, times + 1)?;
            wait_for(&scene.bed, site, TOOK_OVER, times)?;
            ensure!(matd.is_running(), "{}", matd.log_tail());
            ensure!(running(&scene.bed, site)? == file, "the old file runs");
            ensure!(scene.bed.status(site)?["pid"] == matd.pid());
            scene.flows()?;
            wait_until(SOON, "answers of the successor", || {
                (answers.load(Ordering::Relaxed) > before).then_some(())
            })?;
            for line in matd.log().lines().filter(|line| line.contains(TOOK_OVER)) {
                println!("{site}: {line}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_upgrade_that_is_refused_changes_nothing() -> Result<()> {
    let installed = Installed::new()?;
    let scene = Scene::on(Testbed::new(installed.options()?)?)?;
    let matd = scene.bed.site("a").matd.clone();
    let config = scene.bed.site("a").config.clone();
    let running_before = running(&scene.bed, "a")?;
    let content = fs::read(installed.matd())?;
    let good = fs::read_to_string(&config)?;
    let refused = |times: usize, why: &str| -> Result<()> {
        matd.signal(Signal::SIGUSR2)?;
        wait_for(&scene.bed, "a", "not upgraded", times)?;
        let log = matd.log();
        let said = log.lines().rfind(|line| line.contains("not upgraded"));
        let said = said.unwrap_or_default();
        println!("{said}");
        ensure!(said.contains(why), "unclear: {said}");
        ensure!(running(&scene.bed, "a")? == running_before);
        ensure!(scene.bed.status("a")?["pid"] == matd.pid());
        scene.flows()
    };

    installed.replace(b"not a program")?;
    refused(1, "cannot be run: Exec format error")?;
    fs::remove_file(installed.matd())?;
    refused(2, "cannot be run: No such file")?;
    installed.replace(&content)?;
    fs::write(&config, good.replace("placement", "placing"))?;
    refused(3, "placing")?;
    fs::write(&config, good)?;

    ensure!(!matd.log().contains(TOOK_OVER), "{}", matd.log_tail());
    scene.finish_and_judge("upgrades refused", unnoticed)
}

/// The new file is gone as soon as it has accepted the configuration.
#[test]
fn a_program_whose_successor_vanishes_takes_over_from_itself() -> Result<()> {
    let installed = Installed::new()?;
    let scene = Scene::on(Testbed::new(installed.options()?)?)?;
    let running_before = running(&scene.bed, "a")?;
    installed.replace(b"#!/bin/sh\nrm \"$0\"\n")?;
    let matd = &scene.bed.site("a").matd;
    matd.signal(Signal::SIGUSR2)?;
    wait_for(&scene.bed, "a", "starting the present program again", 1)?;
    wait_for(&scene.bed, "a", TOOK_OVER, 1)?;
    wait_for(&scene.bed, "a", READY, 2)?;
    ensure!(running(&scene.bed, "a")? == running_before);
    scene.flows()?;
    // It knows its place still.
    let file = installed.replace(&fs::read(binaries()?.join("matd"))?)?;
    matd.signal(Signal::SIGUSR2)?;
    wait_for(&scene.bed, "a", READY, 3)?;
    ensure!(running(&scene.bed, "a")? == file);
    scene.finish_and_judge("successor vanished", unnoticed)
}

/// The old site of a move relays stragglers for a while, which a successor would not.
#[test]
fn an_upgrade_waits_until_a_move_has_ended() -> Result<()> {
    let scene = Scene::new()?;
    scene.bed.move_instance(&scene.web, "b")?;
    let matd = &scene.bed.site("a").matd;
    matd.signal(Signal::SIGUSR2)?;
    wait_for(&scene.bed, "a", "the upgrade waits", 1)?;
    let state = scene.bed.home_state("a", &scene.web.home)?;
    ensure!(state == "departed", "{} is {state}", scene.web.home);
    wait_for(&scene.bed, "a", READY, 2)?;
    scene.flows()?;
    scene.bed.move_instance(&scene.web, "a")?;
    scene.flows()?;
    scene.finish("upgraded after a move")
}

/// None is lost, and none ends the successor before it can listen to them.
#[test]
fn signals_during_an_upgrade_reach_the_successor() -> Result<()> {
    let bed = Testbed::new(Options::new()?)?;
    let matd = &bed.site("b").matd;
    for times in 1..=3 {
        matd.signal(Signal::SIGUSR2)?;
        wait_for(&bed, "b", TOOK_OVER, times)?;
        // It may or may not listen to signals already.
        matd.signal(Signal::SIGHUP)?;
        wait_for(&bed, "b", "configuration reloaded", times)?;
    }
    matd.signal(Signal::SIGUSR2)?;
    wait_for(&bed, "b", TOOK_OVER, 4)?;
    matd.signal(Signal::SIGTERM)?;
    matd.wait_success(SOON)?;
    let links = bed.site("b").host.run("ip -br link")?;
    ensure!(!links.contains("mat0"), "{links}");
    bed.lab.end()
}
