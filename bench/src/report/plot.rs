//! The picture: a bar for each contender, a panel for each measure and set-up.

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{PathElement, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, RGBColor, TextStyle};

use super::figures::{Figure, Section, unit};
use super::table::short;
use crate::contender::{self, DIRECT, Kind};
use crate::plan::{Measure, SetUp};
use crate::stats::Summary;

const SURFACE: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);
const INK: RGBColor = RGBColor(0x1B, 0x1F, 0x27);
const MUTED: RGBColor = RGBColor(0x5D, 0x66, 0x75);
const GRID: RGBColor = RGBColor(0xC9, 0xD0, 0xDA);
const OURS: RGBColor = RGBColor(0x1F, 0x6F, 0xEB);
const OTHERS: RGBColor = RGBColor(0xA9, 0xB4, 0xC2);

const LABELS: i32 = 230;
const PANEL: i32 = 380;
/// Right of the longest bar, for its value.
const VALUE: i32 = 70;
const ROW: i32 = 20;
const HEADING: i32 = 34;
const EDGE: i32 = 12;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// What a panel shows of one contender.
#[derive(Clone, Debug, PartialEq)]
struct Bar {
    label: String,
    ours: bool,
    /// `None` if it was not measured.
    length: Option<Length>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Length {
    value: f64,
    /// The 95 % interval, or else the range.
    from: f64,
    to: f64,
}

impl Length {
    fn end(self) -> f64 {
        self.value.max(self.to)
    }
}

/// Of all measures of a section, as SVG.
pub fn draw(section: &Section) -> String {
    let (set_ups, measures) = (section.set_ups(), section.measures());
    let rows = section.contenders().len() as i32;
    let panel = HEADING + rows * ROW + EDGE;
    let width = LABELS + PANEL * set_ups.len() as i32 + EDGE;
    let height = HEADING + panel * measures.len() as i32 + EDGE;
    let mut svg = String::new();
    {
        let size = (width as u32, height as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let drawn = (|| -> Drawn {
            root.fill(&SURFACE)?;
            for (column, set_up) in set_ups.iter().enumerate() {
                let x = LABELS + PANEL * column as i32;
                put(&root, (x, 24), set_up.label(), (16, INK), HPos::Left)?;
                for (row, measure) in measures.iter().enumerate() {
                    let y = HEADING + panel * row as i32;
                    let bars = bars(section, *set_up, *measure);
                    draw_panel(&root, (x, y), *measure, &bars, column == 0)?;
                }
            }
            Ok(root.present()?)
        })();
        // Into a string nothing can fail to be written.
        drawn.expect("drawing into memory");
    }
    svg
}

fn bars(section: &Section, set_up: SetUp, measure: Measure) -> Vec<Bar> {
    let length = |id: &str| {
        let figure = section.figure(set_up, measure, id)?;
        let summary = shown(measure, &figure)?;
        let (from, to) = summary
            .interval
            .unwrap_or((summary.lowest, summary.highest));
        Some(Length {
            value: summary.median,
            from,
            to,
        })
    };
    let all = section.contenders().into_iter();
    let shown = all.filter(|id| measure == Measure::Latency || *id != DIRECT);
    shown
        .map(|id| Bar {
            label: contender::label(id).replace('`', ""),
            ours: contender::find(id).is_some_and(|c| matches!(c.kind, Kind::Mat(_))),
            length: length(id),
        })
        .collect()
}

/// Ratios, but round trips as they are.
fn shown(measure: Measure, figure: &Figure) -> Option<Summary> {
    match measure {
        Measure::Latency => Some(figure.absolute),
        _ => figure.relative,
    }
}

fn title(measure: Measure) -> String {
    match measure {
        Measure::Latency => format!("{}, {}", measure.label(), unit(measure)),
        _ => format!("{}, ratio to direct", measure.label()),
    }
}

fn draw_panel(
    area: &Area<'_>,
    (x, y): (i32, i32),
    measure: Measure,
    bars: &[Bar],
    labelled: bool,
) -> Drawn {
    put(area, (x, y + 22), &title(measure), (14, MUTED), HPos::Left)?;
    let pixels = scale(measure, bars, PANEL - VALUE);
    let (top, bottom) = (y + HEADING - 4, y + HEADING + bars.len() as i32 * ROW);
    let one = (measure != Measure::Latency).then_some(1.0);
    for rule in [Some(0.0), one].into_iter().flatten() {
        let at = x + pixels(rule);
        area.draw(&PathElement::new(vec![(at, top), (at, bottom)], GRID))?;
    }
    for (n, bar) in bars.iter().enumerate() {
        let above = y + HEADING + n as i32 * ROW;
        let (middle, below) = (above + ROW / 2 - 2, above + ROW - 5);
        if labelled {
            put(area, (x - 8, below), &bar.label, (13, INK), HPos::Right)?;
        }
        let Some(length) = bar.length else { continue };
        let colour = if bar.ours { OURS } else { OTHERS };
        let corners = [(x, above), (x + pixels(length.value), below)];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        let ends = [length.from, length.to].map(|end| (x + pixels(end), middle));
        area.draw(&PathElement::new(ends.to_vec(), INK.stroke_width(2)))?;
        let right = (x + pixels(length.end()) + 6, below);
        put(area, right, &short(length.value), (13, INK), HPos::Left)?;
    }
    Ok(())
}

/// Pixels of a value, such that the longest fits; direct, 1, is always in the picture.
fn scale(measure: Measure, bars: &[Bar], pixels: i32) -> impl Fn(f64) -> i32 + use<> {
    let least = match measure {
        Measure::Latency => f64::MIN_POSITIVE,
        _ => 1.0,
    };
    let ends = bars.iter().filter_map(|bar| Some(bar.length?.end()));
    let longest = ends.fold(least, f64::max);
    move |value| (value / longest * f64::from(pixels)).round() as i32
}

fn put(
    area: &Area<'_>,
    at: (i32, i32),
    words: &str,
    (size, colour): (u32, RGBColor),
    side: HPos,
) -> Drawn {
    let style: TextStyle<'_> = ("sans-serif", size).into_font().color(&colour);
    let style = style.pos(Pos::new(side, VPos::Bottom));
    Ok(area.draw(&Text::new(words.to_owned(), at, style))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::examples::{latency, results, tcp};

    #[test]
    fn a_bar_shows_the_ratio_and_where_it_may_lie() {
        let runs = [results(vec![
            tcp(0, SetUp::Tso, "direct", 10_000.0),
            tcp(0, SetUp::Tso, "mat", 5_000.0),
            tcp(1, SetUp::Tso, "direct", 10_000.0),
            tcp(1, SetUp::Tso, "mat", 7_000.0),
        ])];
        let sections = Section::all(&runs);
        let bars = bars(&sections[0], SetUp::Tso, Measure::Tcp1);
        let expected = Bar {
            label: "MAT".to_owned(),
            ours: true,
            length: Some(Length {
                value: 0.6,
                from: 0.5,
                to: 0.7,
            }),
        };
        assert_eq!(bars, [expected]);
    }

    #[test]
    fn the_longest_bar_fits_and_direct_is_in_the_picture() {
        let bar = |value: Option<f64>| Bar {
            label: String::new(),
            ours: false,
            length: value.map(|value| Length {
                value,
                from: value,
                to: value,
            }),
        };
        let length = scale(Measure::Tcp1, &[bar(Some(0.5)), bar(None)], 300);
        assert_eq!((length(0.5), length(1.0)), (150, 300));
        let length = scale(Measure::Tcp1, &[bar(Some(0.5)), bar(Some(2.0))], 300);
        assert_eq!((length(1.0), length(2.0)), (150, 300));
    }

    #[test]
    fn every_contender_and_measure_is_named_in_the_picture() {
        let runs = [results(vec![
            tcp(0, SetUp::Tso, "direct", 10_000.0),
            tcp(0, SetUp::Tso, "mat-plain", 5_000.0),
            latency(0, "direct", 10.0),
        ])];
        let svg = draw(&Section::all(&runs)[0]);
        for what in [
            "MAT, offload = false",
            "TCP, 1 stream, ratio to direct",
            "round trip, p50, µs",
            "direct veth",
            "0.50",
        ] {
            assert!(svg.contains(what), "{what} in {svg}");
        }
    }
}
