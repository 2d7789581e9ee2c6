//! What mat-mapd takes of disk and memory while its bindings move again and again.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mat_netns::{Host, Lab};
use serde::{Deserialize, Serialize};

use crate::load::{Load, UPDATES};
use crate::servers::Seat;

/// How long one step may take.
const STEP: u32 = 600;

/// After so many updates.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Updates acknowledged so far.
    pub updates: u64,
    /// Octets in the data directory.
    pub disk: u64,
    /// Resident memory, in KiB.
    pub memory_kib: u64,
    /// Updates a second since the point before.
    pub rate: f64,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Growth {
    /// `mat.mapping-growth/1`.
    pub schema: String,
    /// Bindings in the zone.
    pub bindings: u32,
    /// In their order; the first is before any update.
    pub points: Vec<Point>,
    /// Started again after all of them: to the first answer, in seconds.
    pub restart: f64,
}

/// Carries out at least so many updates.
pub fn measure(lab: &Lab, host: &Host, bindings: u32, updates: u64) -> Result<Growth> {
    let load = Load::new(lab, bindings, STEP)?;
    let folder = lab.dir().join("growth");
    std::fs::create_dir(&folder)?;
    let data = folder.join("data");
    let program = Seat::Mapd.prepare(host, &folder, &load)?;
    let start = || -> Result<_> {
        let begun = Instant::now();
        let server = host.spawn(program.clone())?;
        load.wait_for_answer(host)?;
        Ok((server, begun.elapsed().as_secs_f64()))
    };
    let (server, _) = start()?;
    let mut points: Vec<Point> = Vec::new();
    let (mut done, mut rate) = (0, 0.0);
    loop {
        let point = Point {
            updates: done,
            disk: size(&data)?,
            memory_kib: server.memory_kib()?,
            rate,
        };
        println!(
            "{done} updates: {:.1} MB on disk, {:.1} MiB of memory, {rate:.0} a second",
            point.disk as f64 / 1e6,
            point.memory_kib as f64 / 1024.0
        );
        points.push(point);
        if done >= updates {
            break;
        }
        let said = load.updates(host, 1000)?;
        ensure!(
            (said.lost, said.refused) == (0, 0),
            "{} lost, {} refused",
            said.lost,
            said.refused
        );
        done += UPDATES as u64;
        rate = said.rate;
    }
    server.stop(Duration::from_secs(60))?;
    let (server, restart) = start()?;
    println!(
        "started again in {restart:.2} s, {:.1} MiB of memory",
        server.memory_kib()? as f64 / 1024.0
    );
    server.stop(Duration::from_secs(60))?;
    Ok(Growth {
        schema: "mat.mapping-growth/1".to_owned(),
        bindings,
        points,
        restart,
    })
}

fn size(folder: &Path) -> Result<u64> {
    let files = std::fs::read_dir(folder)?;
    let sizes = files.map(|file| Ok(file?.metadata()?.len()));
    sizes.sum()
}
