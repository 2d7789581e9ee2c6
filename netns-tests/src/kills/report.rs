//! What became of each killing: a table for people, JSON for programs.

use std::fmt;

use serde::Serialize;

/// One killing.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Who was killed.
    pub victim: String,
    /// When.
    pub moment: String,
    /// What `matctl move` said: moved, rolled back, roll-back failed, or killed.
    pub matctl: String,
    /// The site that serves the instance in the end.
    pub served_at: String,
    /// From the killing until that site served it and data flowed, in seconds.
    pub settled_s: f64,
    /// The longest pause of the TCP streams over IPv4 and IPv6, in milliseconds.
    pub pauses_ms: [f64; 2],
    /// UDP probes that were lost, of both families and directions.
    pub lost: u64,
    /// What is not as it should be; empty if all is well.
    pub faults: Vec<String>,
}

/// A run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `mat.kills/1`.
    pub schema: &'static str,
    /// Round trip between any two sites, and to the mapping service.
    pub rtt_ms: f64,
    /// In the order of their turns.
    pub cells: Vec<Cell>,
}

impl Report {
    /// An empty one.
    pub fn new(rtt_ms: f64) -> Self {
        Report {
            schema: "mat.kills/1",
            rtt_ms,
            cells: Vec::new(),
        }
    }

    /// Whether every cell was as it should be.
    pub fn passed(&self) -> bool {
        self.cells.iter().all(|cell| cell.faults.is_empty())
    }
}

/// A row of the table.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pause = self.pauses_ms[0].max(self.pauses_ms[1]) / 1000.0;
        write!(
            f,
            "| {} | {} | {} | {} | {:.1} s | {pause:.1} s | {} |",
            self.victim, self.moment, self.matctl, self.served_at, self.settled_s, self.lost
        )?;
        for fault in &self.faults {
            write!(f, "\nFAULT: {fault}")?;
        }
        Ok(())
    }
}

/// The whole table, in Markdown.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| killed | when | `matctl move` | served at | settled after | longest pause of TCP | probes lost |\n\
             |---|---|---|---|---|---|---|"
        )?;
        for cell in &self.cells {
            writeln!(f, "{cell}")?;
        }
        let faulty = self.cells.iter().filter(|cell| !cell.faults.is_empty());
        let faulty = faulty.count();
        write!(
            f,
            "\n{}: {} killings, {faulty} with faults",
            if faulty == 0 { "PASSED" } else { "FAILED" },
            self.cells.len()
        )
    }
}
