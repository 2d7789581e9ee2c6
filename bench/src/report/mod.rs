//! What people see of the raw results. Pure, but for [`render`].

mod figures;
mod plot;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::record;
use figures::Section;

/// Writes `table.md` and a plot for each family and round trip, from all raw results in the
/// folder; returns the table.
pub fn render(folder: &Path) -> Result<String> {
    let results = record::read_folder(folder)?;
    ensure!(
        !results.is_empty(),
        "no results of the format {} in {}",
        record::SCHEMA,
        folder.display()
    );
    let save = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let mut text = String::from("# Side by side\n");
    for section in Section::all(&results) {
        let plot = format!("{}.svg", section.slug());
        save(&plot, &plot::draw(&section))?;
        text += &table::section(&section, &plot);
    }
    text += &table::circumstances(&results);
    save("table.md", &text)?;
    Ok(text)
}

/// In the order of the table, each once.
fn ordered<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut ids: Vec<&str> = ids.collect();
    ids.sort_by_key(|id| (crate::contender::place(id), *id));
    ids.dedup();
    ids
}
