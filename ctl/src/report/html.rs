//! The report as one HTML file that needs nothing else (pure).

use super::palette::{self, Theme};
use super::schema::Report;
use super::{figure, table};

/// The page.
pub fn page(report: &Report) -> String {
    let state = if report.all_survived_intact() {
        "good"
    } else {
        "bad"
    };
    format!(
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{colours}{style}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p class="verdict {state}">{verdict}</p>
</header>
{tiles}
<figure>{timeline}</figure>
<figure>{histogram}</figure>
{numbers}
{moves}
{remarks}
<footer>{footer}</footer>
</main>
</body>
</html>
"#,
        title = title(report),
        colours = palette::css(),
        style = STYLE,
        verdict = escaped(&table::verdict(report)),
        tiles = tiles(report),
        timeline = figure::timeline(report, Theme::Page),
        histogram = figure::histogram(report, Theme::Page),
        numbers = numbers(report),
        moves = moves(report),
        remarks = remarks(report),
        footer = escaped(&footer(report)),
    )
}

fn title(report: &Report) -> &'static str {
    match report.moves.len() {
        0 => "What became of the connections",
        1 => "What the move did to the connections",
        _ => "What the moves did to the connections",
    }
}

const STYLE: &str = "\
body{margin:0;background:var(--surface);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1040px;margin:0 auto;padding:32px 24px 48px}
h1{font-size:26px;line-height:1.25;margin:0 0 8px}
h2{font-size:18px;margin:32px 0 8px}
.verdict{display:inline-block;margin:0;padding:4px 12px;border-radius:6px;font-weight:600}
.good{background:#12875022;color:#128750}
.bad{background:#d32f2f22;color:#d32f2f}
@media (prefers-color-scheme:dark){.good{color:#4ccf91}.bad{color:#ff8a80}}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:24px 0 0;padding:0;list-style:none}
.tiles li{border:1px solid var(--grid);border-radius:8px;padding:10px 14px}
.tiles b{display:block;font-size:22px;font-variant-numeric:tabular-nums}
.tiles span{color:var(--muted);font-size:14px}
figure{margin:28px 0 0}
figure svg{display:block;width:100%;height:auto}
figure svg text{font-family:system-ui,sans-serif}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{color:var(--muted);font-weight:500;font-size:14px}
tbody th{font-weight:600;padding-top:16px}
td:last-child{font-weight:600}
.up{color:var(--up)}.down{color:var(--down)}
.no{color:#d32f2f;font-weight:700}
@media (prefers-color-scheme:dark){.no{color:#ff8a80}}
footer{margin-top:32px;color:var(--muted);font-size:14px}
";

/// The numbers most readers come for.
fn tiles(report: &Report) -> String {
    let ms = |value: Option<f64>| value.map_or("not known".to_owned(), |ms| format!("{ms:.1} ms"));
    let mut tiles = vec![
        (ms(report.tcp.longest_stall_ms), "longest TCP stall"),
        (ms(Some(report.udp.longest_gap_ms)), "longest UDP gap"),
        (
            format!("{} of {}", report.udp.lost, report.udp.sent),
            "probes lost",
        ),
    ];
    if !report.moves.is_empty() {
        let recovery = report.throughput.recovery_ms;
        let back = recovery.map_or("not back".to_owned(), |ms| format!("{ms:.0} ms"));
        tiles.push((back, "back to 90 % throughput"));
    }
    if report.connections.opened > 0 {
        let crowd = &report.connections;
        let survived = format!("{} of {}", crowd.intact, crowd.opened);
        tiles.push((survived, "quiet connections intact"));
    }
    let items: String = tiles
        .iter()
        .map(|(value, name)| format!("<li><b>{}</b><span>{name}</span></li>", escaped(value)))
        .collect();
    format!("<ul class=\"tiles\">{items}</ul>")
}

fn numbers(report: &Report) -> String {
    let mut body = String::new();
    for section in table::sections(report) {
        body += &format!("<tr><th colspan=\"4\">{}</th></tr>\n", section.title);
        for row in section.rows {
            body += &format!("<tr><td>{}</td>", row.name);
            for value in [&row.up, &row.down, &row.worst] {
                let class = if value == "NO" { " class=\"no\"" } else { "" };
                body += &format!("<td{class}>{}</td>", escaped(value));
            }
            body += "</tr>\n";
        }
    }
    format!(
        "<h2>Numbers</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th></th>\
         <th class=\"up\">client \u{2192} server</th><th class=\"down\">server \u{2192} client</th>\
         <th>worse of both</th></tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )
}

fn moves(report: &Report) -> String {
    if report.moves.is_empty() {
        return String::new();
    }
    let cells = |tag: &str, cells: &[String]| {
        let cell = |text: &String| {
            let text = escaped(text).replace("-&gt;", "\u{2192}");
            format!("<{tag}>{text}</{tag}>")
        };
        format!("<tr>{}</tr>\n", cells.iter().map(cell).collect::<String>())
    };
    let header = cells("th", &table::MOVE_COLUMNS.map(str::to_owned));
    let rows: String = table::move_rows(report)
        .iter()
        .map(|row| cells("td", row))
        .collect();
    format!(
        "<h2>Moves</h2>\n<div class=\"scroll\"><table>\n<thead>{header}</thead>\n<tbody>\n{rows}</tbody></table></div>"
    )
}

fn remarks(report: &Report) -> String {
    let items: String = table::remarks(report)
        .iter()
        .map(|line| format!("<li>{}</li>\n", escaped(line)))
        .collect();
    if items.is_empty() {
        return items;
    }
    format!("<h2>Remarks</h2>\n<ul>\n{items}</ul>")
}

fn footer(report: &Report) -> String {
    let meta = &report.meta;
    let pace = meta
        .tcp_rate_mbps
        .map_or("as fast as it goes".to_owned(), |rate| {
            format!("paced at {rate} Mbit/s")
        });
    format!(
        "matctl {}, {}. Client {}, server {}. One TCP stream in each direction, {pace}, every byte \
         verified; {} UDP probes a second in each direction. Gaps and stalls are judged by the \
         receiver.",
        meta.version, report.schema, meta.client, meta.server, report.udp.rate_hz
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
