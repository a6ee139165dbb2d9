//! `sluice plugin inspect`: what is in a component.

use anyhow::{Context, Result};
use comfy_table::{ContentArrangement, Table, presets};

use super::cli::{self, Output};
use super::describe::{self, Description};

/// Prints what the component imports, exports and needs.
pub(super) fn run(flags: &cli::Inspect) -> Result<()> {
    let file = flags.file.display();
    let bytes = std::fs::read(&flags.file).with_context(|| format!("cannot read {file}"))?;
    let description = Description::of(&bytes).with_context(|| file.to_string())?;
    match flags.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&description)?),
        Output::Table => println!("{}", table(&description)),
    }
    Ok(())
}

fn table(description: &Description) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.add_row(["size".to_owned(), describe::size(description.size)]);
    table.add_row(["digest".to_owned(), description.digest.clone()]);
    for (title, interfaces) in [("exports", &description.exports), ("imports", &description.imports)] {
        let mut title = title;
        for (name, functions) in interfaces {
            table.add_row([title.to_owned(), format!("{name}  {}", functions.join(" "))]);
            title = "";
        }
    }
    let grants: Vec<String> =
        description.grants.iter().map(|(grant, of)| format!("{grant}: [{of}]")).collect();
    let grants = if grants.is_empty() { "none".to_owned() } else { grants.join(", ") };
    table.add_row(["grants needed".to_owned(), grants]);
    table
}
