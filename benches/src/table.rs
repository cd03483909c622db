//! Tables in Markdown, with columns aligned so that a terminal shows them as well.

use std::fmt;

/// A table under a title.
#[derive(Debug)]
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    /// A table of these columns.
    pub fn new<'a>(title: impl Into<String>, columns: impl IntoIterator<Item = &'a str>) -> Self {
        let columns = columns.into_iter().map(str::to_owned).collect();
        Self { title: title.into(), rows: vec![columns], notes: vec![] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Adds a sentence that stands below.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], at: usize| row.get(at).map_or(String::new(), String::clone);
        let width = |at| self.rows.iter().map(|row| cell(row, at).chars().count()).max();
        let widths: Vec<_> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
        let line = |row: &[String]| {
            let cells = widths.iter().enumerate();
            let cells = cells.map(|(at, width)| format!("| {:width$} ", cell(row, at)));
            cells.collect::<Vec<_>>().concat()
        };
        for (at, row) in self.rows.iter().enumerate() {
            writeln!(f, "{}|", line(row))?;
            if at == 0 {
                let rule = widths.iter().map(|width| format!("|{:-<1$}", "", width + 2));
                writeln!(f, "{}|", rule.collect::<Vec<_>>().concat())?;
            }
        }
        for note in &self.notes {
            writeln!(f, "\n{note}")?;
        }
        Ok(())
    }
}

/// A time beside the floor of its run: the ratio, and the microseconds that are added.
pub fn beside(median: f64, floor: f64) -> String {
    format!("{:.2} ({:+.0} µs)", median / floor, median - floor)
}

/// A time.
pub fn microseconds(median: f64) -> String {
    format!("{median:.0} µs")
}

/// The machine that a table is of: numbers of another are other numbers.
pub fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu_info = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpu_info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
    };
    let guest =
        if field("flags").split(' ').any(|it| it == "hypervisor") { ", a guest" } else { "" };
    let release = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{} × {}{guest}, Linux {}, load {load} when it began",
        cpus,
        field("model name"),
        release.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new("T", ["a", "b"]);
        table.row(["µs".to_owned(), "longer".to_owned()]);
        table.note("Once.");
        table.note("Once.");
        let expected = "### T\n\n| a  | b      |\n|----|--------|\n| µs | longer |\n\nOnce.\n";
        assert_eq!(table.to_string(), expected);
    }
}
