//! Text in columns for a terminal: no wrapping, no borders, so that `grep` and `awk` work on it.

/// Space between two columns.
const GAP: &str = "  ";
/// What stands where there is nothing to say.
const NOTHING: &str = "-";

/// Colour of a cell, where colours are wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Colour {
    Plain,
    /// As it should be.
    Green,
    /// Wrong.
    Red,
    /// Out of the ordinary.
    Yellow,
}

/// A cell's text and colour.
pub(super) struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    pub fn coloured(text: impl ToString, colour: Colour) -> Self {
        // What came from elsewhere must not move the cursor.
        let text = text.to_string().replace(char::is_control, "?");
        Self { text, colour }
    }
}

/// A plain cell.
pub(super) fn cell(text: impl ToString) -> Cell {
    Cell::coloured(text, Colour::Plain)
}

/// A plain cell, or the sign for nothing.
pub(super) fn cell_or_nothing(text: Option<impl ToString>) -> Cell {
    text.map_or_else(|| cell(NOTHING), cell)
}

#[derive(Clone, Copy, PartialEq)]
enum Align {
    Left,
    Right,
}

/// A column over rows of `R`.
pub(super) struct Column<R> {
    header: &'static str,
    align: Align,
    /// Only in wide tables.
    pub wide: bool,
    cell: fn(R) -> Cell,
}

/// A column of words.
pub(super) fn words<R>(header: &'static str, cell: fn(R) -> Cell) -> Column<R> {
    Column { header, align: Align::Left, wide: false, cell }
}

/// A column of numbers.
pub(super) fn numbers<R>(header: &'static str, cell: fn(R) -> Cell) -> Column<R> {
    Column { header, align: Align::Right, wide: false, cell }
}

/// The same column, only in wide tables.
pub(super) fn only_wide<R>(column: Column<R>) -> Column<R> {
    Column { wide: true, ..column }
}

/// Lays `rows` out under headers, one line each.
pub(super) fn table<R: Copy>(columns: &[Column<R>], rows: impl Iterator<Item = R>, colour: bool) -> String {
    let header = columns.iter().map(|column| cell(column.header)).collect();
    let rows = rows.map(|row| columns.iter().map(|column| (column.cell)(row)).collect());
    let lines: Vec<Vec<Cell>> = std::iter::once(header).chain(rows).collect();
    let width_of = |at: usize| lines.iter().map(|line| line[at].text.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width_of).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(columns).zip(&widths).map(|((cell, column), &width)| {
            let padding = " ".repeat(width - cell.text.chars().count());
            let shown = paint(cell, colour);
            if column.align == Align::Left { shown + &padding } else { padding + &shown }
        });
        text.push_str(cells.collect::<Vec<_>>().join(GAP).trim_end());
        text.push('\n');
    }
    text
}

fn paint(Cell { text, colour }: &Cell, wanted: bool) -> String {
    match colour {
        Colour::Green if wanted => format!("\x1b[32m{text}\x1b[0m"),
        Colour::Red if wanted => format!("\x1b[31m{text}\x1b[0m"),
        Colour::Yellow if wanted => format!("\x1b[33m{text}\x1b[0m"),
        _ => text.clone(),
    }
}

/// Terminal sequences that draw `picture` over the one before, without flicker.
pub(super) fn repaint(picture: &str) -> String {
    const HOME: &str = "\x1b[H";
    const CLEAR_REST_OF_LINE: &str = "\x1b[K\n";
    const CLEAR_BELOW: &str = "\x1b[J";
    format!("{HOME}{}{CLEAR_BELOW}", picture.replace('\n', CLEAR_REST_OF_LINE))
}

#[cfg(test)]
mod tests {
    use super::{Cell, Colour, cell_or_nothing, numbers, repaint, table, words};

    fn two_columns(colour: bool) -> String {
        let columns = [
            words("NAME", |(name, _): (&str, Option<i32>)| Cell::coloured(name, Colour::Red)),
            numbers("SIZE_MB", |(_, size)| cell_or_nothing(size)),
        ];
        table(&columns, [("größer", Some(1)), ("a\x1b[2J\n", None)].into_iter(), colour)
    }

    #[test]
    fn columns_align_and_control_characters_are_disarmed() {
        let expected = "\
NAME    SIZE_MB
größer        1
a?[2J?        -
";
        assert_eq!(two_columns(false), expected);
    }

    #[test]
    fn colours_leave_the_alignment_alone() {
        let plain = two_columns(true).replace("\x1b[31m", "").replace("\x1b[0m", "");
        assert_eq!(plain, two_columns(false));
        assert!(two_columns(true).contains("\x1b[31mgrößer\x1b[0m        1\n"), "{:?}", two_columns(true));
    }

    #[test]
    fn a_repaint_clears_what_the_last_picture_left() {
        assert_eq!(repaint("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
