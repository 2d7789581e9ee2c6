//! Colours by role, and how they become those of a page or of a file of their own.
//!
//! The figures are drawn with one stand-in colour for each role. In a page the stand-ins become
//! CSS variables, so that one figure serves dark and light; in a stand-alone file, which other
//! programs than browsers must show too, they become fixed colours on white.

use plotters::style::RGBColor;

/// Background.
pub const SURFACE: RGBColor = RGBColor(1, 0, 1);
/// Text.
pub const INK: RGBColor = RGBColor(2, 0, 1);
/// Text of lesser weight, axes.
pub const MUTED: RGBColor = RGBColor(3, 0, 1);
/// Lines of the grid.
pub const GRID: RGBColor = RGBColor(4, 0, 1);
/// From client to server.
pub const UP: RGBColor = RGBColor(5, 0, 1);
/// From server to client.
pub const DOWN: RGBColor = RGBColor(6, 0, 1);
/// A move.
pub const MOVE: RGBColor = RGBColor(7, 0, 1);

/// Stand-in, CSS variable, light and dark colour of every role.
const ROLES: [(RGBColor, &str, &str, &str); 7] = [
    (SURFACE, "surface", "#FFFFFF", "#171A21"),
    (INK, "ink", "#1B1F27", "#E9ECF2"),
    (MUTED, "muted", "#5D6675", "#9AA4B5"),
    (GRID, "grid", "#E4E8EE", "#2A303C"),
    (UP, "up", "#1F6FEB", "#6CB0FF"),
    (DOWN, "down", "#D0680B", "#FFB057"),
    (MOVE, "move", "#7A3FF2", "#B795FF"),
];

/// Where a drawing will be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// In a page which defines [`css`].
    Page,
    /// Alone.
    Light,
}

/// Replaces the stand-ins in an SVG drawing.
pub fn paint(drawing: &str, theme: Theme) -> String {
    ROLES
        .iter()
        .fold(drawing.to_owned(), |drawing, (role, name, light, _)| {
            let stand_in = format!("#{:02X}{:02X}{:02X}", role.0, role.1, role.2);
            match theme {
                Theme::Page => drawing.replace(&stand_in, &format!("var(--{name})")),
                Theme::Light => drawing.replace(&stand_in, light),
            }
        })
}

/// The variables of a page, for light and dark.
pub fn css() -> String {
    let list = |pick: fn(&(RGBColor, &str, &str, &str)) -> String| {
        ROLES.iter().map(pick).collect::<Vec<_>>().join(";")
    };
    let light = list(|(_, name, light, _)| format!("--{name}:{light}"));
    let dark = list(|(_, name, _, dark)| format!("--{name}:{dark}"));
    format!(":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n")
}
