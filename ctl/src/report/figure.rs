//! The figures, as SVG (pure).

use std::ops::Range;

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::combinators::IntoLogRange;
use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::series::LineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, RGBColor, TextStyle};

use super::palette::{self, DOWN, GRID, INK, MOVE, MUTED, SURFACE, Theme, UP};
use super::schema::{Gap, GapBucket, Report, Sample};
use super::throughput::MoveMark;

const WIDTH: u32 = 1040;
const THROUGHPUT_HEIGHT: u32 = 360;
const GAPS_HEIGHT: u32 = 170;
const HISTOGRAM_HEIGHT: u32 = 300;
const LEFT: u32 = 72;
const EDGE: u32 = 8;
const RIGHT: u32 = 16;
const PLOT_PX: f64 = (WIDTH - LEFT - RIGHT) as f64;

/// Shown at least so wide: a move of 50 ms in a run of a minute would vanish.
const BAND_PX: f64 = 3.0;
/// Room for one row of labels above the bands.
const LABEL_ROW: i32 = 19;
/// Labels closer than this stand in different rows.
const LABEL_PX: f64 = 90.0;
const LABEL_ROWS: usize = 3;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;
/// Throughput and gaps over time, moves marked, as a file of its own.
pub fn standalone(report: &Report) -> String {
    timeline(report, Theme::Light)
}

/// Throughput and gaps over time, moves marked.
pub fn timeline(report: &Report, theme: Theme) -> String {
    draw(THROUGHPUT_HEIGHT + GAPS_HEIGHT, theme, |root| {
        let (above, below) = root.split_vertically(THROUGHPUT_HEIGHT);
        throughput(report, &above)?;
        gaps(report, &below)
    })
}

/// How many gaps of which length.
pub fn histogram(report: &Report, theme: Theme) -> String {
    draw(HISTOGRAM_HEIGHT, theme, |root| gap_histogram(report, root))
}

fn draw(height: u32, theme: Theme, content: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let drawn = root
            .fill(&SURFACE)
            .map_err(Into::into)
            .and_then(|()| content(&root))
            .and_then(|()| root.present().map_err(Into::into));
        // Into a string nothing can fail to be written, and every range below is non-empty.
        drawn.expect("drawing into memory");
    }
    palette::paint(&svg, theme)
}

fn throughput(report: &Report, area: &Area<'_>) -> Drawn {
    let (up, down) = (&report.throughput_up.series, &report.throughput_down.series);
    let highest = up.iter().chain(down).map(|s| s.mbps).fold(0.0, f64::max);
    let marks = report.marks();
    let rows = label_rows(&marks, &time_range(report));
    let above = rows
        .iter()
        .max()
        .map_or(0, |row| (*row as i32 + 1) * LABEL_ROW);

    heading(area, "TCP throughput at the receiver, in bins of 50 ms")?;
    legend(area)?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(38 + above)
        .margin_right(RIGHT)
        .margin_left(EDGE)
        .y_label_area_size(LEFT - EDGE)
        .x_label_area_size(10)
        .build_cartesian_2d(time_range(report), 0.0..highest.max(1.0) * 1.06)?;
    let (unit, scale) = if highest >= 2_000.0 {
        ("Gbit/s", 1e-3)
    } else {
        ("Mbit/s", 1.0)
    };
    bands(&chart, &marks, 0.0..highest.max(1.0) * 1.06)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(GRID.mix(0.0))
        .axis_style(MUTED.mix(0.6))
        .y_labels(6)
        .y_desc(unit)
        .y_label_formatter(&|mbps| trimmed(mbps * scale))
        .x_labels(0)
        .label_style(text(15, MUTED))
        .axis_desc_style(text(15, MUTED))
        .draw()?;
    for (series, colour) in [(up, UP), (down, DOWN)] {
        let outline = steps(series, report.meta.bin_ms);
        chart.draw_series(LineSeries::new(outline, colour.stroke_width(2)))?;
    }
    labels(report, area, &time_range(report), 38 + above, &marks, &rows)
}

fn gaps(report: &Report, area: &Area<'_>) -> Drawn {
    let directions = [(&report.udp_up, UP), (&report.udp_down, DOWN)];
    let longest = directions
        .iter()
        .flat_map(|(udp, _)| udp.gaps.iter().map(|gap| gap.gap_ms))
        .fold(50.0, f64::max);
    heading(area, "UDP probe: the longest gaps between arrivals")?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(36)
        .margin_right(RIGHT)
        .margin_left(EDGE)
        .y_label_area_size(LEFT - EDGE)
        .x_label_area_size(38)
        .build_cartesian_2d(time_range(report), (1.0..longest * 2.0).log_scale())?;
    bands(&chart, &report.marks(), 1.0..longest * 2.0)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(GRID.mix(0.0))
        .axis_style(MUTED.mix(0.6))
        .y_labels(4)
        .y_desc("ms")
        .y_label_formatter(&|ms| trimmed(*ms))
        .x_labels(12)
        .x_desc("seconds")
        .x_label_formatter(&|s| trimmed(*s))
        .label_style(text(15, MUTED))
        .axis_desc_style(text(15, MUTED))
        .draw()?;
    for (udp, colour) in directions {
        chart.draw_series(udp.gaps.iter().map(|gap| {
            let at = gap_middle(gap);
            PathElement::new(
                vec![(at, 1.0), (at, gap.gap_ms)],
                colour.mix(0.8).stroke_width(2),
            )
        }))?;
        chart.draw_series(
            udp.gaps
                .iter()
                .map(|gap| Circle::new((gap_middle(gap), gap.gap_ms), 3, colour.filled())),
        )?;
    }
    Ok(())
}

fn gap_histogram(report: &Report, area: &Area<'_>) -> Drawn {
    let (up, down) = (&report.udp_up.gap_histogram, &report.udp_down.gap_histogram);
    let used = used_buckets(up, down);
    let at = |buckets: &[GapBucket], index: usize| buckets.get(index).map_or(0, |b| b.count);
    let highest = used
        .clone()
        .map(|index| at(up, index).max(at(down, index)))
        .max()
        .unwrap_or(0);
    heading(area, "UDP probe: number of gaps by length")?;
    legend(area)?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(42)
        .margin_right(RIGHT)
        .margin_left(EDGE)
        .y_label_area_size(LEFT - EDGE)
        .x_label_area_size(42)
        .build_cartesian_2d(
            0.0..used.len().max(1) as f64,
            (0.7..(highest as f64 * 2.0).max(10.0)).log_scale(),
        )?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(GRID.mix(0.0))
        .axis_style(MUTED.mix(0.6))
        .y_labels(6)
        .y_desc("gaps")
        .y_label_formatter(&|count| trimmed(*count))
        .x_labels(0)
        .x_desc("length in ms")
        .label_style(text(15, MUTED))
        .axis_desc_style(text(15, MUTED))
        .draw()?;
    for (slot, index) in used.enumerate() {
        let left = slot as f64;
        for (buckets, colour, from) in [(up, UP, 0.14), (down, DOWN, 0.51)] {
            let count = at(buckets, index);
            if count == 0 {
                continue;
            }
            let corners = [(left + from, 0.7), (left + from + 0.35, count as f64)];
            chart.draw_series([Rectangle::new(corners, colour.filled())])?;
            let (x, y) = chart.backend_coord(&(left + from + 0.175, count as f64));
            put(
                area,
                (x, y - 4),
                &count.to_string(),
                text(13, MUTED),
                HPos::Center,
            )?;
        }
        if let Some(bucket) = up.get(index).or(down.get(index)) {
            let (x, y) = chart.backend_coord(&(left + 0.5, 0.7));
            put(
                area,
                (x, y + 17),
                &bucket_label(bucket),
                text(15, MUTED),
                HPos::Center,
            )?;
        }
    }
    Ok(())
}

/// The buckets between the first and the last that is not empty.
fn used_buckets(up: &[GapBucket], down: &[GapBucket]) -> Range<usize> {
    let filled =
        |buckets: &[GapBucket], index: usize| buckets.get(index).is_some_and(|b| b.count > 0);
    let mut used = (0..up.len().max(down.len())).filter(|&i| filled(up, i) || filled(down, i));
    match (used.next(), used.next_back()) {
        (Some(first), last) => first..last.unwrap_or(first) + 1,
        (None, _) => 0..0,
    }
}

fn bucket_label(bucket: &GapBucket) -> String {
    match bucket.to_ms {
        Some(to) if bucket.from_ms == 0.0 => format!("< {}", trimmed(to)),
        Some(to) => format!("{}\u{2013}{}", trimmed(bucket.from_ms), trimmed(to)),
        None => format!("\u{2265} {}", trimmed(bucket.from_ms)),
    }
}

/// Seconds shown.
fn time_range(report: &Report) -> Range<f64> {
    0.0..(report.meta.measured_ms.max(report.meta.bin_ms) as f64 / 1000.0)
}

/// The outline of the bins, so that a bin looks like what it is: a mean over its length.
fn steps(series: &[Sample], bin_ms: u64) -> Vec<(f64, f64)> {
    series
        .iter()
        .flat_map(|sample| {
            let seconds = |ms: u64| ms as f64 / 1000.0;
            [
                (seconds(sample.t_ms), sample.mbps),
                (seconds(sample.t_ms + bin_ms), sample.mbps),
            ]
        })
        .collect()
}

fn gap_middle(gap: &Gap) -> f64 {
    (gap.t_ms + gap.gap_ms / 2.0) / 1000.0
}

fn bands<Y: Ranged<ValueType = f64>>(
    chart: &ChartContext<'_, SVGBackend<'_>, Cartesian2d<RangedCoordf64, Y>>,
    marks: &[MoveMark],
    height: Range<f64>,
) -> Drawn {
    let shown = chart.plotting_area().get_x_range();
    for mark in marks {
        let band = band(mark, (shown.end - shown.start) / PLOT_PX);
        if band.end <= shown.start || band.start >= shown.end {
            continue;
        }
        let corners = [
            (band.start.max(shown.start), height.start),
            (band.end.min(shown.end), height.end),
        ];
        chart
            .plotting_area()
            .draw(&Rectangle::new(corners, MOVE.mix(0.22).filled()))?;
    }
    Ok(())
}

fn band(mark: &MoveMark, per_px: f64) -> Range<f64> {
    let (start, end) = (mark.start_ms / 1000.0, mark.end_ms / 1000.0);
    start..end.max(start + BAND_PX * per_px)
}

/// "A -> B" above each band that is shown.
fn labels(
    report: &Report,
    area: &Area<'_>,
    time: &Range<f64>,
    top: i32,
    marks: &[MoveMark],
    rows: &[usize],
) -> Drawn {
    for ((one, mark), row) in report.moves.iter().zip(marks).zip(rows) {
        let middle = f64::midpoint(mark.start_ms, mark.end_ms) / 1000.0;
        if time.contains(&middle) {
            let share = (middle - time.start) / (time.end - time.start);
            let at = (
                LEFT as i32 + (share * PLOT_PX) as i32,
                top - 7 - *row as i32 * LABEL_ROW,
            );
            let label = format!("{} \u{2192} {}", one.from, one.to);
            put(area, at, &label, text(16, MOVE), HPos::Center)?;
        }
    }
    Ok(())
}

/// The row of each label, so that close ones do not lie on each other.
fn label_rows(marks: &[MoveMark], time: &Range<f64>) -> Vec<usize> {
    let px = |mark: &MoveMark| mark.start_ms / 1000.0 / (time.end - time.start) * PLOT_PX;
    let mut ends = [f64::NEG_INFINITY; LABEL_ROWS];
    marks
        .iter()
        .map(|mark| {
            let free = ends.iter().position(|end| px(mark) - end >= LABEL_PX);
            let row = free.unwrap_or(LABEL_ROWS - 1);
            ends[row] = px(mark);
            row
        })
        .collect()
}

fn heading(area: &Area<'_>, words: &str) -> Drawn {
    put(area, (LEFT as i32, 20), words, text(18, INK), HPos::Left)
}

fn legend(area: &Area<'_>) -> Drawn {
    let right = (WIDTH - RIGHT) as i32;
    for (x, colour, words) in [
        (right - 290, UP, "client \u{2192} server"),
        (right - 134, DOWN, "server \u{2192} client"),
    ] {
        area.draw(&Rectangle::new([(x, 10), (x + 14, 20)], colour.filled()))?;
        put(area, (x + 20, 20), words, text(15, INK), HPos::Left)?;
    }
    Ok(())
}

/// Writes on a base line.
fn put(area: &Area<'_>, at: (i32, i32), words: &str, style: TextStyle<'_>, side: HPos) -> Drawn {
    let style = style.pos(Pos::new(side, VPos::Bottom));
    Ok(area.draw(&Text::new(words, at, style))?)
}

fn text(size: u32, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&colour)
}

/// As few digits as tell the value.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(start_ms: f64) -> MoveMark {
        MoveMark {
            start_ms,
            end_ms: start_ms + 50.0,
        }
    }

    #[test]
    fn close_labels_stand_in_different_rows() {
        let marks = [1_000.0, 1_100.0, 6_000.0].map(mark);
        assert_eq!(label_rows(&marks, &(0.0..10.0)), [0, 1, 0]);
    }

    #[test]
    fn empty_edges_of_the_histogram_are_not_shown() {
        let bucket = |count| GapBucket {
            from_ms: 0.0,
            to_ms: None,
            count,
        };
        let (up, down) = ([0, 0, 1, 0, 0].map(bucket), [0, 0, 0, 5, 0].map(bucket));
        assert_eq!(used_buckets(&up, &down), 2..4);
        assert_eq!(used_buckets(&[], &[]), 0..0);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.5, 20.0, 1.25, 0.0].map(trimmed),
            ["0.5", "20", "1.25", "0"]
        );
    }
}
