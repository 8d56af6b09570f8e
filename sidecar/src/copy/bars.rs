//! How far the copy is, on a terminal: a bar for each table under way, and one for all of them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::show::{Rates, TableShown, seconds, size};
use super::{Progress, TableProgress};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// Tables with a bar of their own at the same time; large ones come first.
const BARS_MAX: usize = 10;

/// What a bar shows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bar {
    name: String,
    /// Chunks that are written, and all.
    done: u64,
    of: u64,
    text: String,
}

impl Bar {
    fn of(table: &TableShown) -> Bar {
        let TableProgress { name, left, chunks, rows, bytes } = &table.progress;
        let mut text = format!(
            "{} rows, {}, {}/s",
            grouped(*rows),
            ByteSize(*bytes),
            size(table.bytes_per_second)
        );
        if let Some(left) = table.seconds_left {
            text += &format!(", {} left", seconds(left));
        }
        Bar { name: name.clone(), done: *chunks, of: chunks + left, text }
    }
}

/// The bars of the tables under way, and that of all tables.
#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn bars(shown: &[TableShown]) -> (Vec<Bar>, Bar) {
    let sum = |of: fn(&TableProgress) -> u64| shown.iter().map(|table| of(&table.progress)).sum();
    let progress = TableProgress {
        name: "all tables".to_owned(),
        left: sum(|table| table.left),
        chunks: sum(|table| table.chunks),
        rows: sum(|table| table.rows),
        bytes: sum(|table| table.bytes),
    };
    let rate = |of: fn(&TableShown) -> f64| shown.iter().map(of).sum::<f64>();
    let (bytes_per_second, chunks_per_second) =
        (rate(|table| table.bytes_per_second), rate(|table| table.chunks_per_second));
    let seconds_left = (chunks_per_second > 0.0).then(|| progress.left as f64 / chunks_per_second);
    let all = TableShown { progress, bytes_per_second, chunks_per_second, seconds_left };
    let copied = shown.iter().filter(|table| table.progress.left == 0).count();
    let mut all = Bar::of(&all);
    all.text = format!("{copied} of {} tables, {}", shown.len(), all.text);
    let mut under_way: Vec<&TableShown> =
        shown.iter().filter(|table| table.progress.left > 0 && table.progress.chunks > 0).collect();
    under_way.sort_by_key(|table| std::cmp::Reverse(table.progress.left));
    (under_way.into_iter().take(BARS_MAX).map(Bar::of).collect(), all)
}

/// `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Takes the bars away when the copy ends, however it does.
struct Drawn<'a> {
    terminal: &'a MultiProgress,
    all: ProgressBar,
    tables: HashMap<String, ProgressBar>,
}

impl Drawn<'_> {
    fn new(terminal: &MultiProgress) -> Drawn<'_> {
        let all = ProgressBar::new(0).with_style(style()).with_prefix("all tables");
        Drawn { terminal, all: terminal.add(all), tables: HashMap::new() }
    }

    fn draw(&mut self, (tables, all): (Vec<Bar>, Bar)) {
        self.tables.retain(|name, bar| {
            let stays = tables.iter().any(|table| table.name == *name);
            if !stays {
                bar.finish_and_clear();
            }
            stays
        });
        for table in &tables {
            let bar = self.tables.entry(table.name.clone()).or_insert_with(|| {
                let bar = ProgressBar::new(table.of).with_style(style());
                let bar = bar.with_prefix(table.name.clone());
                self.terminal.insert_before(&self.all, bar)
            });
            set(bar, table);
        }
        set(&self.all, &all);
    }
}

impl Drop for Drawn<'_> {
    fn drop(&mut self) {
        self.tables.values().chain([&self.all]).for_each(ProgressBar::finish_and_clear);
    }
}

fn set(bar: &ProgressBar, to: &Bar) {
    bar.set_length(to.of);
    bar.set_position(to.done);
    bar.set_message(to.text.clone());
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{prefix:>24!} [{bar:20}] {percent:>3} % {msg}");
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// Shows the copy on `terminal`, for ever.
pub(super) async fn draw(progress: Progress, terminal: &MultiProgress) {
    let (mut rates, mut drawn) = (Rates::default(), None);
    loop {
        let shown = rates.look(progress.tables(), Instant::now());
        // most starts have nothing to copy
        if !shown.is_empty() {
            drawn.get_or_insert_with(|| Drawn::new(terminal)).draw(bars(&shown));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, chunks: u64, left: u64) -> TableShown {
        let (rows, bytes) = (chunks * 1000, chunks << 20);
        TableShown {
            progress: TableProgress { name: name.to_owned(), left, chunks, rows, bytes },
            bytes_per_second: if left > 0 { 1048576.0 } else { 0.0 },
            chunks_per_second: if left > 0 { 1.0 } else { 0.0 },
            seconds_left: (chunks > 0).then_some(left as f64),
        }
    }

    #[test]
    fn what_is_under_way_has_a_bar_and_all_tables_have_one() {
        let shown = [
            table("s.done", 5, 0),
            table("s.waits", 0, 9),
            table("s.a", 1, 3),
            table("s.b", 2, 61),
        ];
        let (tables, all) = bars(&shown);
        let text = "2,000 rows, 2.0 MiB, 1.0 MiB/s, 1m 1s left".to_owned();
        assert_eq!(tables[0], Bar { name: "s.b".into(), done: 2, of: 63, text });
        assert_eq!(tables.iter().map(|bar| bar.name.as_str()).collect::<Vec<_>>(), ["s.b", "s.a"]);
        let text = "1 of 4 tables, 8,000 rows, 8.0 MiB, 3.0 MiB/s, 25s left".to_owned();
        assert_eq!(all, Bar { name: "all tables".into(), done: 8, of: 81, text });
    }

    #[test]
    fn numbers_are_grouped() {
        let found = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(found, ["0", "999", "1,000", "1,234,567"]);
    }
}
