//! Reports: their JSON form, what follows from the moves, and how they are shown.
//!
//! A [`Report`] is made by `measure` and completed by whoever made the moves
//! ([`Report::with_moves`]). It is shown as a table for the terminal ([`table`]), as a figure
//! ([`figure`]), and as one HTML file that needs nothing else ([`html`]). All of this is pure
//! but for [`run`], which reads and writes the files.
//!
//! Invariant: every number shown is a number of the JSON file, or follows from such;
//! pictures and tables never know more than the file.
//!
//! # Limitations
//! A figure shows at most the 64 longest gaps of each direction, for the file has no more.

pub mod figure;
pub mod html;
mod palette;
pub mod schema;
pub mod series;
mod table;
pub mod throughput;
pub mod worst;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

pub use schema::{Move, Report};
pub use table::table;
pub use throughput::MoveMark;

use schema::{
    Connections, Direction, Meta, SCHEMA, Sample, TcpDirection, Throughput, UdpDirection,
};

/// `matctl report`
#[derive(Clone, Debug, clap::Args)]
pub struct ReportArgs {
    /// Report in JSON, as `measure client` or `demo` wrote it
    #[arg(value_name = "FILE.json")]
    pub file: PathBuf,
    /// Write a self-contained HTML page
    #[arg(long, value_name = "OUT.html")]
    pub html: Option<PathBuf>,
    /// Write the figure alone
    #[arg(long, value_name = "OUT.svg")]
    pub svg: Option<PathBuf>,
}

/// Prints the table of a report file, and writes the page and the figure if asked for.
///
/// # Errors
/// Names the file that cannot be read, is no report, or cannot be written.
pub fn run(args: ReportArgs) -> anyhow::Result<ExitCode> {
    let name = args.file.display();
    let text = fs::read_to_string(&args.file).with_context(|| format!("cannot read {name}"))?;
    let report = Report::from_json(&text).with_context(|| format!("{name} is no report"))?;
    if let Some(path) = &args.html {
        fs::write(path, html::page(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.svg {
        fs::write(path, figure::standalone(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{}", table(&report));
    Ok(ExitCode::SUCCESS)
}

impl Report {
    /// A report without moves; the arrays hold up and down, in this order.
    pub fn new(
        [tcp_up, tcp_down]: [TcpDirection; 2],
        [udp_up, udp_down]: [UdpDirection; 2],
        series: [(Direction, Vec<Sample>); 2],
        connections: Connections,
        meta: Meta,
    ) -> Self {
        let [throughput_up, throughput_down] =
            series.map(|(direction, series)| analysed(direction, series, meta.bin_ms, &[]));
        Self {
            schema: SCHEMA.to_owned(),
            tcp: worst::tcp(&tcp_up.outcome, &tcp_down.outcome),
            udp: worst::udp(&udp_up.outcome, &udp_down.outcome),
            throughput: worst::throughput(&throughput_up, &throughput_down),
            moves: Vec::new(),
            tcp_up,
            tcp_down,
            udp_up,
            udp_down,
            throughput_up,
            throughput_down,
            connections,
            meta,
        }
    }

    /// The same measurement with the moves that happened during it, in any order; replaces
    /// earlier moves and computes everything anew that depends on them.
    pub fn with_moves(mut self, mut moves: Vec<Move>) -> Self {
        moves.sort_by_key(|one| one.start_unix_us);
        self.moves = moves;
        let marks = self.marks();
        let bin_ms = self.meta.bin_ms;
        for direction in [&mut self.throughput_up, &mut self.throughput_down] {
            let series = std::mem::take(&mut direction.series);
            *direction = analysed(direction.direction, series, bin_ms, &marks);
        }
        self.throughput = worst::throughput(&self.throughput_up, &self.throughput_down);
        self
    }

    /// When the moves happened, after time zero of the run.
    pub fn marks(&self) -> Vec<MoveMark> {
        let zero_us = self.meta.start_unix_us;
        let ms = |unix_us: u64| (i128::from(unix_us) - i128::from(zero_us)) as f64 / 1000.0;
        let mark = |one: &Move| MoveMark {
            start_ms: ms(one.start_unix_us),
            end_ms: ms(one.end_unix_us.max(one.start_unix_us)),
        };
        self.moves.iter().map(mark).collect()
    }

    /// Whether every TCP connection, those of the crowd included, survived byte for byte.
    pub fn all_survived_intact(&self) -> bool {
        let crowd = &self.connections;
        self.tcp.survived && self.tcp.intact && crowd.intact == crowd.opened
    }

    /// The JSON form.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings, numbers and lists have a JSON form")
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    /// Says what is not as [`schema`] wants it, with line and column.
    pub fn from_json(text: &str) -> anyhow::Result<Self> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        match value.get("schema").and_then(|schema| schema.as_str()) {
            Some(SCHEMA) => Ok(serde_json::from_str(text)?),
            Some(other) => bail!("schema is {other:?}, this matctl reads {SCHEMA:?}"),
            None => bail!("it has no field \"schema\""),
        }
    }
}

fn analysed(
    direction: Direction,
    series: Vec<Sample>,
    bin_ms: u64,
    marks: &[MoveMark],
) -> Throughput {
    let tidy = |value: f64| (value * 100.0).round() / 100.0;
    let mut moves = throughput::around(&series, bin_ms, marks);
    for one in &mut moves {
        one.before_mbps = one.before_mbps.map(tidy);
        one.during_mbps = one.during_mbps.map(tidy);
        one.after_mbps = one.after_mbps.map(tidy);
        one.recovery_ms = one.recovery_ms.map(tidy);
    }
    let recoveries: Option<Vec<f64>> = moves.iter().map(|one| one.recovery_ms).collect();
    let before_mbps = match moves.first() {
        Some(first) => first.before_mbps,
        None => throughput::mean(&series).map(tidy),
    };
    Throughput {
        direction,
        before_mbps,
        after_mbps: moves.last().and_then(|last| last.after_mbps),
        recovery_ms: recoveries.and_then(|all| all.into_iter().reduce(f64::max)),
        moves,
        series,
    }
}
