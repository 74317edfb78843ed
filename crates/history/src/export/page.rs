//! One page: texts, lines and areas at places, measured from its lower left corner.

use pdf_writer::{Content, Name, Settings, Str};

use super::font::{fit, width};
use super::pdf::{BOLD, REGULAR};

/// Between the text and the edges of the page.
pub(super) const MARGIN: f32 = 36.0;

/// A colour: red, green, blue.
pub(super) type Colour = [f32; 3];
pub(super) const BLACK: Colour = [0.0, 0.0, 0.0];
pub(super) const GREY: Colour = [0.42, 0.42, 0.42];
pub(super) const LIGHT: Colour = [0.85, 0.85, 0.85];

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    font: Name<'static>,
    size: f32,
    colour: Colour,
}

impl Look {
    pub(super) const fn regular(size: f32) -> Self {
        Self {
            font: REGULAR,
            size,
            colour: BLACK,
        }
    }

    pub(super) const fn bold(size: f32) -> Self {
        Self {
            font: BOLD,
            size,
            colour: BLACK,
        }
    }

    pub(super) const fn grey(size: f32) -> Self {
        Self {
            font: REGULAR,
            size,
            colour: GREY,
        }
    }
}

/// What is drawn on a page.
pub(super) struct Canvas(Content);

impl Canvas {
    pub(super) fn new() -> Self {
        Self(Content::with_settings(Settings { pretty: false }))
    }

    pub(super) fn finish(self) -> Content {
        self.0
    }

    /// A line of text that begins there and has so much room.
    pub(super) fn text(&mut self, (x, y): (f32, f32), look: Look, text: &str, room: f32) {
        let codes = fit(text, look.size, room);
        self.put((x, y), look, &codes);
    }

    /// A line of text that ends there.
    pub(super) fn text_before(&mut self, (x, y): (f32, f32), look: Look, text: &str, room: f32) {
        let codes = fit(text, look.size, room);
        self.put((x - width(&codes, look.size), y), look, &codes);
    }

    fn put(&mut self, (x, y): (f32, f32), look: Look, codes: &[u8]) {
        self.colour(look.colour);
        let content = &mut self.0;
        content.begin_text().set_font(look.font, look.size);
        content.next_line(rounded(x), rounded(y)).show(Str(codes));
        content.end_text();
    }

    /// Texts side by side: each with how much room it has.
    pub(super) fn row<'a>(
        &mut self,
        (x, y): (f32, f32),
        look: Look,
        gap: f32,
        cells: impl Iterator<Item = (&'a str, f32)>,
    ) {
        self.colour(look.colour);
        let content = &mut self.0;
        content.begin_text().set_font(look.font, look.size);
        // Each line begins where the one before did, and that one's room.
        let (mut dx, mut dy) = (x, y);
        for (text, room) in cells {
            content.next_line(dx, dy);
            let codes = fit(text, look.size, room - gap);
            if !codes.is_empty() {
                content.show(Str(&codes));
            }
            (dx, dy) = (room, 0.0);
        }
        content.end_text();
    }

    /// A filled area.
    pub(super) fn area(&mut self, (x, y): (f32, f32), (width, height): (f32, f32), colour: Colour) {
        self.colour(colour);
        let [x, y, width, height] = [x, y, width, height].map(rounded);
        self.0.rect(x, y, width, height).fill_nonzero();
    }

    /// A level line.
    pub(super) fn line(&mut self, (x, y): (f32, f32), length: f32) {
        self.area((x, y), (length, 0.5), LIGHT);
    }

    /// What another object draws, there.
    pub(super) fn form(&mut self, (x, y): (f32, f32), form: Name<'_>) {
        self.colour(GREY);
        let content = &mut self.0;
        content.save_state();
        content.transform([1.0, 0.0, 0.0, 1.0, rounded(x), rounded(y)]);
        content.x_object(form).restore_state();
    }

    fn colour(&mut self, [red, green, blue]: Colour) {
        self.0.set_fill_rgb(red, green, blue);
    }
}

/// To a hundredth of a point: nobody sees more, and numbers stay short.
fn rounded(number: f32) -> f32 {
    (number * 100.0).round() / 100.0
}
