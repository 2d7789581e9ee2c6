//! The rounds.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use mat_netns::{Lab, interrupt};

use crate::contender;
use crate::course::{Course, Site};
use crate::machine;
use crate::measure::{self, Spinners};
use crate::plan::{Measure, Plan, SetUp, shuffled};
use crate::record::{About, Failed, Log, Outcome, Record, Run, Sample, Skipped};
use crate::tools::Tools;

/// Builds every contender, then takes one measurement after the other. What is measured is in the
/// folder at once; the error of an interrupted run comes after it has been cleaned up.
pub fn run(plan: &Plan, run: Run, folder: &Path) -> Result<()> {
    let lab = Lab::new()?;
    let tools = Tools::find()?;
    let site = Site {
        lab: &lab,
        tools: &tools,
        family: run.family,
        conditions: run.conditions,
    };
    let (seed, busy) = (run.seed, run.conditions.busy);
    let (mut log, path) = Log::create(folder, &stem(&run))?;
    eprintln!("mat-bench: raw results: {}", path.display());
    log.add(&Record::Run(run))?;
    let courses = build(&site, plan, &mut log)?;
    let mut bench = Bench {
        plan,
        seed,
        courses,
        log,
        turn: 0,
    };
    let spinners = Spinners::busy(&bench.courses[0].left, busy)?;
    for round in 0..plan.rounds {
        for set_up in &plan.set_ups {
            bench.round(round, *set_up)?;
        }
    }
    spinners.end()?;
    lab.end()
}

/// Names sort by time.
fn stem(run: &Run) -> String {
    let time: String = run
        .started
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let family = run.family.label().to_lowercase();
    format!("{time}-{family}-{}", run.conditions.slug())
}

/// All that can be built; the others are said.
fn build(site: &Site, plan: &Plan, log: &mut Log) -> Result<Vec<Course>> {
    let mut courses = Vec::new();
    for contender in &plan.contenders {
        match site.build(contender) {
            Ok(course) => {
                log.add(&Record::Contender(About {
                    id: contender.id.to_owned(),
                    about: course.about.clone(),
                }))?;
                courses.push(course);
            }
            Err(error) => {
                ensure!(!interrupt::requested(), "interrupted");
                if contender.id == contender::DIRECT {
                    return Err(error.context("without the reference there is nothing to tell"));
                }
                eprintln!("mat-bench: {} is left out: {error:#}", contender.id);
                log.add(&Record::Skipped(Skipped {
                    id: contender.id.to_owned(),
                    why: format!("{error:#}"),
                }))?;
            }
        }
    }
    Ok(courses)
}

struct Bench<'a> {
    plan: &'a Plan,
    seed: u64,
    courses: Vec<Course>,
    log: Log,
    /// Counts what the order is shuffled for.
    turn: u64,
}

impl Bench<'_> {
    fn round(&mut self, round: u32, set_up: SetUp) -> Result<()> {
        for course in &self.courses {
            let name = course.contender.id;
            course.set_up(set_up).context(name)?;
        }
        for measure in self.plan.measures.clone() {
            let awake = match measure {
                Measure::Latency => Some(Spinners::awake(&self.courses[0].left)?),
                _ => None,
            };
            let order: Vec<usize> = (0..self.courses.len()).collect();
            for n in shuffled(&order, self.seed, self.turn) {
                self.sample(round, set_up, measure, n)?;
            }
            self.turn += 1;
            if let Some(awake) = awake {
                awake.end()?;
            }
        }
        Ok(())
    }

    /// One that fails does not end the run: an hour's other results stand.
    fn sample(&mut self, round: u32, set_up: SetUp, measure: Measure, n: usize) -> Result<()> {
        let course = &self.courses[n];
        let contender = course.contender.id.to_owned();
        let [load, ..] = machine::load()?;
        let outcome = measure::take(course, measure, self.plan.seconds);
        let told = match &outcome {
            Ok(outcome) => words(outcome),
            Err(error) => format!("FAILED: {error:#}"),
        };
        eprintln!(
            "round {}/{}, {set_up:?}, {measure:?}, {contender}: {told}",
            round + 1,
            self.plan.rounds
        );
        if interrupt::requested() {
            bail!("interrupted; what was measured until now is kept");
        }
        self.log.add(&match outcome {
            Ok(outcome) => Record::Sample(Sample {
                round,
                set_up,
                measure,
                contender,
                load,
                outcome,
            }),
            Err(error) => Record::Failed(Failed {
                round,
                set_up,
                measure,
                contender,
                why: format!("{error:#}"),
            }),
        })
    }
}

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Transfer(t) => match t.datagrams_per_s {
            Some(rate) => format!("{rate:.0} datagrams/s, {:.0} Mbit/s", t.mbps),
            None => format!("{:.0} Mbit/s", t.mbps),
        },
        Outcome::RoundTrips(r) => format!("{:.0} us, p99 {:.0} us", r.p50_us, r.p99_us),
    }
}
