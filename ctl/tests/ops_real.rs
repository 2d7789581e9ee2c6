//! Moves that fail between real forwarders: afterwards the instance is served where it was, and a
//! connection that was open before still works. Needs the programs of the whole workspace, and
//! root or a user namespace (`scripts/privileged`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mat_netns::Cmd;
use mat_netns::testbed::{Instance, Options, Testbed};

const PATIENCE: Duration = Duration::from_secs(20);

/// `web` at site a, `user` at site c, and a connection between them in each family.
struct Scene {
    bed: Testbed,
    web: Instance,
    connections: Vec<[TcpStream; 2]>,
}

impl Scene {
    fn new() -> Result<Self> {
        let bed = Testbed::new(Options::new()?)?;
        let web = bed.instance("web", 10, "a")?;
        let user = bed.instance("user", 20, "c")?;
        let mut connections = Vec::new();
        for home in [&web.home, &web.home6] {
            let address = SocketAddr::new(home.parse()?, 7000);
            let listener = web.host.enter(|| TcpListener::bind(address))??;
            let open = || TcpStream::connect_timeout(&address, PATIENCE);
            let there = user.host.enter(open)??;
            let (here, _) = listener.accept()?;
            for end in [&here, &there] {
                end.set_read_timeout(Some(PATIENCE))?;
            }
            connections.push([here, there]);
        }
        let scene = Scene {
            bed,
            web,
            connections,
        };
        scene.talk()?;
        Ok(scene)
    }

    /// Both connections carry bytes in both directions.
    fn talk(&self) -> Result<()> {
        for [one, other] in &self.connections {
            for (mut from, mut to) in [(one, other), (other, one)] {
                from.write_all(b"still here?")?;
                let mut heard = [0; 11];
                to.read_exact(&mut heard)
                    .context("the connection is silent")?;
                ensure!(&heard == b"still here?");
            }
        }
        Ok(())
    }

    fn matctl(&self, args: &[&str]) -> Result<Output> {
        let config = self.bed.matctl_config(&[&self.web])?;
        let matctl = Cmd::new(env!("CARGO_BIN_EXE_matctl"))
            .args(args)
            .arg("--config")
            .arg(config)
            .timeout(Duration::from_secs(60));
        self.bed.map.exec(matctl)
    }

    /// Tries to move web to site b; gives back what `matctl` says about its failure.
    fn fails_to_move(&self, command: &str) -> Result<String> {
        let output = self.matctl(&["move", "web", "--to", "b", "--exec", command])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{text}");
        ensure!(output.status.code() == Some(1), "{text}");
        ensure!(!text.contains("ROLL-BACK FAILED"), "{text}");
        Ok(text)
    }

    /// Everything is as before the move.
    fn ends_well(self) -> Result<()> {
        for home in [&self.web.home, &self.web.home6] {
            ensure!(self.bed.home_state("a", home)? == "serving");
        }
        self.talk()?;
        self.bed.lab.end()
    }
}

#[test]
fn a_driver_that_fails_costs_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let text = scene.fails_to_move("exit 1")?;
    ensure!(text.contains("step relocate failed"), "{text}");
    for home in [&scene.web.home, &scene.web.home6] {
        ensure!(scene.bed.home_state("b", home)? == "not attached");
    }
    scene.ends_well()
}

#[test]
fn a_new_site_that_dies_in_the_gap_costs_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let matd = scene.bed.site("b").matd.pid();
    let text = scene.fails_to_move(&format!("[ -n \"$MAT_ROLL_BACK\" ] || kill -KILL {matd}"))?;
    ensure!(text.contains("step activate failed"), "{text}");
    ensure!(
        text.contains("rolled back: the instance is brought back to a"),
        "{text}"
    );
    scene.ends_well()
}

/// The mapping service stands still in the gap, and goes on when the move is being undone: by
/// then the change of the binding waits in its queue, and is made after all.
#[test]
fn a_change_of_the_binding_that_comes_too_late_is_taken_back() -> Result<()> {
    let scene = Scene::new()?;
    let mapd = scene.bed.mapd.pid();
    let command =
        format!("if [ -n \"$MAT_ROLL_BACK\" ]; then kill -CONT {mapd}; else kill -STOP {mapd}; fi");
    let text = scene.fails_to_move(&command)?;
    ensure!(text.contains("step activate failed"), "{text}");
    ensure!(text.contains("stays served at a"), "{text}");
    scene.ends_well()
}

/// What `matctl help move` says about a move that nobody finishes.
#[test]
fn what_a_killed_matctl_leaves_can_be_mended() -> Result<()> {
    let scene = Scene::new()?;
    let killed = scene.matctl(&["move", "web", "--to", "b", "--exec", "kill -KILL $PPID"])?;
    ensure!(killed.status.code().is_none(), "{killed:?}");
    let text = scene.fails_to_move("true")?;
    for part in ["192.0.2.10 is departed at a", "192.0.2.10 is prepared at b"] {
        ensure!(text.contains(part), "{text}");
    }
    for args in [
        ["detach", "web", "--site", "b"],
        ["attach", "web", "--site", "a"],
    ] {
        let output = scene.matctl(&args)?;
        ensure!(output.status.success(), "{output:?}");
    }
    scene.ends_well()
}
