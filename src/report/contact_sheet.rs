//! The contact sheet: what both models drew for the same prompts and seeds, before above after.

use super::{
    PictureNotes, ReportError,
    canvas::{ACCENT, Canvas, Colour, INK, SOFT, WHITE, fitted},
    encode_png,
    lettering::{Anchor, Lettering},
    png::check,
};
use crate::{
    outcome::JudgedPicture,
    spec::{Concept, Prompt, Vocabulary},
};

/// Most columns and rows of a sheet: a larger grid would be a file that nobody can look at.
const MOST_COLUMNS: usize = 24;
const MOST_ROWS: usize = 12;
/// Width that the pictures share, in pixels.
const PICTURES_WIDTH: usize = 1_600;
const CELL_SIDES: std::ops::RangeInclusive<usize> = 64..=192;

const GAP: usize = 4;
const ROW_GAP: usize = 16;
const MARGIN: usize = 28;
const TITLE_HEIGHT: usize = 74;
const COLUMN_LABEL_HEIGHT: usize = 30;
const FRAME: usize = 3;
const EMPTY_CELL: Colour = [240, 242, 244];

/// Draws the first seed of every cell: columns are objects, rows are styles, the base model's
/// pictures above the edited model's. Cells that ask for the erased concept are framed.
pub fn contact_sheet(
    pictures: &[JudgedPicture],
    vocabulary: &Vocabulary,
    concept: &Concept,
) -> Result<Vec<u8>, ReportError> {
    for judged in pictures {
        check(&judged.before)?;
        check(&judged.after)?;
    }
    let grid = Grid::of(pictures, vocabulary)?;
    let sheet = Sheet::new(&grid, vocabulary)?;
    let canvas = sheet.draw(&grid, concept)?;
    encode_png(
        &canvas.into_picture(),
        &PictureNotes {
            entries: vec![("Title", format!("\"{}\" before and after erasure", concept.text))],
        },
    )
}

/// An object or a style; none where the prompt names none.
type Word = Option<String>;

struct Grid<'a> {
    columns: Vec<Word>,
    rows: Vec<Word>,
    /// Columns and rows that there would be without a limit.
    whole: (usize, usize),
    /// Row by row; none where no such cell was judged.
    cells: Vec<Option<&'a JudgedPicture>>,
}

impl<'a> Grid<'a> {
    fn of(pictures: &'a [JudgedPicture], vocabulary: &Vocabulary) -> Result<Self, ReportError> {
        if pictures.is_empty() {
            return Err(ReportError::Empty("no cell was judged"));
        }
        let is_target = |word: &Word, part: fn(&Prompt) -> &Word| {
            pictures.iter().any(|judged| judged.is_target && part(&judged.prompt) == word)
        };
        let words = |part: fn(&Prompt) -> &Word, order: &[String], most: usize| {
            let mut words: Vec<Word> = Vec::new();
            for judged in pictures {
                if !words.contains(part(&judged.prompt)) {
                    words.push(part(&judged.prompt).clone());
                }
            }
            let place = |word: &Word| match word {
                None => 0,
                Some(word) => {
                    order.iter().position(|known| known == word).map_or(usize::MAX, |at| at + 1)
                }
            };
            words.sort_by_key(place);
            let whole = words.len();
            // The concept's own words stay, whatever their place.
            let own = words.iter().filter(|word| is_target(word, part)).count();
            let mut others = most.saturating_sub(own.min(most));
            let mut own = own.min(most);
            words.retain(|word| {
                let left = if is_target(word, part) { &mut own } else { &mut others };
                let kept = *left > 0;
                *left = left.saturating_sub(1);
                kept
            });
            (words, whole)
        };
        let (columns, whole_columns) =
            words(|prompt| &prompt.object, &vocabulary.objects, MOST_COLUMNS);
        let (rows, whole_rows) = words(|prompt| &prompt.style, &vocabulary.styles, MOST_ROWS);
        let cells = rows
            .iter()
            .flat_map(|style| columns.iter().map(move |object| (object, style)))
            .map(|(object, style)| {
                pictures
                    .iter()
                    .find(|judged| judged.prompt.object == *object && judged.prompt.style == *style)
            })
            .collect();
        Ok(Self { columns, rows, whole: (whole_columns, whole_rows), cells })
    }

    /// Whether every judged cell of a column asks for the concept, which then is its label.
    fn column_is_target(&self, column: usize) -> bool {
        all_targets(self.cells.iter().skip(column).step_by(self.columns.len()).copied())
    }

    fn row_is_target(&self, row: usize) -> bool {
        let start = row * self.columns.len();
        all_targets(self.cells[start..start + self.columns.len()].iter().copied())
    }
}

fn all_targets<'a>(cells: impl Iterator<Item = Option<&'a JudgedPicture>>) -> bool {
    let mut judged = cells.flatten().peekable();
    judged.peek().is_some() && judged.all(|cell| cell.is_target)
}

struct Sheet {
    cell: usize,
    left: usize,
    column_labels: Vec<String>,
    row_labels: Vec<String>,
    title: Lettering,
    label: Lettering,
    small: Lettering,
}

impl Sheet {
    fn new(grid: &Grid<'_>, vocabulary: &Vocabulary) -> Result<Self, ReportError> {
        let share = PICTURES_WIDTH / grid.columns.len();
        let target = share.clamp(*CELL_SIDES.start(), *CELL_SIDES.end());
        // Small pictures grow by whole factors only; a cell larger than that would stand half empty.
        let longest = grid
            .cells
            .iter()
            .flatten()
            .map(|judged| judged.before.width.max(judged.before.height))
            .max()
            .unwrap_or(target);
        let cell = if longest < target { target / longest * longest } else { target };
        let label = Lettering::new(17.0)?;
        let column_labels = labels(&grid.columns, &format!("any {}", vocabulary.anything));
        let row_labels = labels(&grid.rows, "no style");
        let widest = row_labels.iter().map(|text| label.width(text)).fold(0.0_f32, f32::max);
        let left = MARGIN + (widest.clamp(70.0, 220.0)) as usize + 76;
        Ok(Self {
            cell,
            left,
            column_labels,
            row_labels,
            title: Lettering::new(26.0)?,
            label,
            small: Lettering::new(14.5)?,
        })
    }

    fn column_left(&self, column: usize) -> usize {
        self.left + column * (self.cell + GAP)
    }

    fn row_top(&self, row: usize) -> usize {
        MARGIN + TITLE_HEIGHT + COLUMN_LABEL_HEIGHT + row * (2 * self.cell + GAP + ROW_GAP)
    }

    fn draw(&self, grid: &Grid<'_>, concept: &Concept) -> Result<Canvas, ReportError> {
        let title = format!("\u{201c}{}\u{201d} before and after erasure", concept.text);
        let subtitle = self.subtitle(grid);
        let needed = self.title.width(&title).max(self.small.width(&subtitle)).min(1_600.0);
        let width =
            (self.column_left(grid.columns.len()) - GAP).max(MARGIN + needed as usize) + MARGIN;
        let height = self.row_top(grid.rows.len()) - ROW_GAP + MARGIN;
        if width.saturating_mul(height) > 100_000_000 {
            return Err(ReportError::Empty("the grid is too large for a sheet"));
        }
        let mut canvas = Canvas::new(width, height, WHITE);
        let room = (width - 2 * MARGIN) as f32;
        let start = |y: usize| (MARGIN as f32, y as f32);
        let title = self.title.shortened(&title, room);
        self.title.draw(&mut canvas, &title, start(MARGIN + 14), Anchor::Start, INK);
        let subtitle = self.small.shortened(&subtitle, room);
        self.small.draw(&mut canvas, &subtitle, start(MARGIN + 46), Anchor::Start, SOFT);
        self.draw_labels(&mut canvas, grid);
        for (index, cell) in grid.cells.iter().enumerate() {
            self.draw_cell(
                &mut canvas,
                *cell,
                self.column_left(index % grid.columns.len()),
                self.row_top(index / grid.columns.len()),
            );
        }
        Ok(canvas)
    }

    fn subtitle(&self, grid: &Grid<'_>) -> String {
        const MEANING: &str = "Same prompts and seeds; the base model above, the edited model below. \
                               Framed: the erased concept.";
        let shown = (self.column_labels.len(), self.row_labels.len());
        if shown == grid.whole {
            return MEANING.to_owned();
        }
        let (columns, rows) = grid.whole;
        format!("{MEANING} Shown: {} of {columns} columns, {} of {rows} rows.", shown.0, shown.1)
    }

    fn draw_labels(&self, canvas: &mut Canvas, grid: &Grid<'_>) {
        let colour = |is_target| if is_target { ACCENT } else { INK };
        for (column, text) in self.column_labels.iter().enumerate() {
            let middle = self.column_left(column) as f32 + self.cell as f32 / 2.0;
            let room = self.cell as f32;
            let lettering = if self.label.width(text) <= room { &self.label } else { &self.small };
            let text = lettering.shortened(text, room + GAP as f32);
            let y = (MARGIN + TITLE_HEIGHT + COLUMN_LABEL_HEIGHT / 2 - 1) as f32;
            let ink = colour(grid.column_is_target(column));
            lettering.draw(canvas, &text, (middle, y), Anchor::Middle, ink);
        }
        for (row, text) in self.row_labels.iter().enumerate() {
            let top = self.row_top(row) as f32;
            let half = self.cell as f32 / 2.0;
            let text = self.label.shortened(text, 220.0);
            let ink = colour(grid.row_is_target(row));
            let x = MARGIN as f32;
            let middle = top + self.cell as f32 + GAP as f32 / 2.0;
            self.label.draw(canvas, &text, (x, middle), Anchor::Start, ink);
            let x = (self.left - 12) as f32;
            self.small.draw(canvas, "before", (x, top + half), Anchor::End, SOFT);
            let below = top + self.cell as f32 + GAP as f32 + half;
            self.small.draw(canvas, "after", (x, below), Anchor::End, SOFT);
        }
    }

    fn draw_cell(
        &self,
        canvas: &mut Canvas,
        judged: Option<&JudgedPicture>,
        left: usize,
        top: usize,
    ) {
        let pair = (self.cell, 2 * self.cell + GAP);
        let Some(judged) = judged else {
            canvas.fill(left, top, pair, EMPTY_CELL);
            return;
        };
        if judged.is_target {
            canvas.frame(left, top, pair, FRAME, ACCENT);
            canvas.fill(left, top + self.cell, (self.cell, GAP), ACCENT);
        }
        for (picture, top) in [(&judged.before, top), (&judged.after, top + self.cell + GAP)] {
            let shown = fitted(picture, self.cell);
            let indent = |side: usize| (self.cell.saturating_sub(side)) / 2;
            canvas.place(&shown, left + indent(shown.width), top + indent(shown.height));
        }
    }
}

fn labels(words: &[Word], unnamed: &str) -> Vec<String> {
    words.iter().map(|word| word.clone().unwrap_or_else(|| unnamed.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{outcome::Picture, spec::ConceptKind};

    fn judged(object: Option<&str>, style: Option<&str>, is_target: bool) -> JudgedPicture {
        let picture = |value| Picture { width: 16, height: 16, rgb: vec![value; 16 * 16 * 3] };
        JudgedPicture {
            prompt: Prompt {
                object: object.map(str::to_owned),
                style: style.map(str::to_owned),
                ..Prompt::default()
            },
            seed: 1,
            is_target,
            before: picture(40),
            after: picture(200),
        }
    }

    fn vocabulary() -> Vocabulary {
        Vocabulary {
            anything: "emoji".to_owned(),
            objects: ["cat", "dog"].map(str::to_owned).to_vec(),
            styles: ["flat", "neon"].map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn the_grid_follows_the_vocabulary_and_knows_its_targets() {
        let pictures = [
            judged(Some("dog"), Some("neon"), false),
            judged(Some("cat"), Some("neon"), true),
            judged(None, Some("flat"), false),
            judged(Some("cat"), Some("flat"), true),
        ];
        let grid = Grid::of(&pictures, &vocabulary()).unwrap();
        let word = |text: &str| Some(text.to_owned());
        assert_eq!(grid.columns, [None, word("cat"), word("dog")]);
        assert_eq!(grid.rows, [word("flat"), word("neon")]);
        assert!(grid.column_is_target(1) && !grid.column_is_target(2) && !grid.row_is_target(0));
        assert!(
            contact_sheet(&pictures, &vocabulary(), &Concept::new("cat", ConceptKind::Object))
                .unwrap()
                .starts_with(b"\x89PNG")
        );
    }

    #[test]
    fn a_large_grid_keeps_the_concept() {
        let mut pictures: Vec<JudgedPicture> = (0..60)
            .map(|index| judged(Some(&format!("thing {index}")), Some("flat"), false))
            .collect();
        pictures.push(judged(Some("cat"), Some("flat"), true));
        let grid = Grid::of(&pictures, &Vocabulary::default()).unwrap();
        assert_eq!(grid.columns.len(), MOST_COLUMNS);
        assert!(grid.columns.contains(&Some("cat".to_owned())));
        assert_eq!(grid.whole, (61, 1));
    }

    #[test]
    fn no_picture_is_no_sheet() {
        let concept = Concept::new("cat", ConceptKind::Object);
        assert!(matches!(
            contact_sheet(&[], &Vocabulary::default(), &concept),
            Err(ReportError::Empty(_))
        ));
    }
}
