//! Helvetica, which every reader of PDF files has: the characters that it can show, and how broad they are.
//!
//! Nothing is embedded, so there are those of WinAnsi (Windows-1252) and no others; `?` stands for each of them.

/// Breadths of the characters from the blank on, in thousandths of the size.
const WIDTHS: [u16; 224] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, // 0x20
    556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556, // 0x30
    1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778, // 0x40
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, // 0x50
    333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, // 0x60
    556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584, 350, // 0x70
    556, 350, 222, 556, 333, 1000, 556, 556, 333, 1000, 667, 333, 1000, 350, 611, 350, // 0x80
    350, 222, 222, 333, 333, 350, 556, 1000, 333, 1000, 500, 333, 944, 350, 500, 667, // 0x90
    278, 333, 556, 556, 556, 556, 260, 556, 333, 737, 370, 556, 584, 333, 737, 333, // 0xa0
    400, 584, 333, 333, 333, 556, 537, 278, 333, 333, 365, 556, 834, 834, 834, 611, // 0xb0
    667, 667, 667, 667, 667, 667, 1000, 722, 667, 667, 667, 667, 278, 278, 278, 278, // 0xc0
    722, 722, 778, 778, 778, 778, 778, 584, 778, 722, 722, 722, 722, 667, 667, 611, // 0xd0
    556, 556, 556, 556, 556, 556, 889, 500, 556, 556, 556, 556, 278, 278, 278, 278, // 0xe0
    556, 556, 556, 556, 556, 556, 556, 584, 611, 556, 556, 556, 556, 500, 556, 500, // 0xf0
];

/// The characters of 0x80 to 0x9f; where there is none, the replacement character.
const HIGH: [char; 32] = [
    '€', '\u{fffd}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{fffd}', 'Ž',
    '\u{fffd}', '\u{fffd}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{fffd}',
    'ž', 'Ÿ',
];

/// What says that something was cut off.
const ELLIPSIS: u8 = 0x85;

/// One character of a line of text.
fn code(character: char) -> u8 {
    match character {
        ' '..='~' | '\u{a0}'..='\u{ff}' => u8::try_from(u32::from(character)).unwrap_or(b'?'),
        '\t' | '\n' | '\r' => b' ',
        // Said here, not found below: it stands there for what is not there.
        '\u{fffd}' => b'?',
        other => {
            let place = HIGH.iter().position(|high| *high == other);
            place
                .and_then(|place| u8::try_from(0x80 + place).ok())
                .unwrap_or(b'?')
        }
    }
}

fn breadth(code: u8) -> u32 {
    let place = usize::from(code).checked_sub(0x20);
    u32::from(
        place
            .and_then(|place| WIDTHS.get(place).copied())
            .unwrap_or(0),
    )
}

/// How broad a text of [`fit`] is.
pub(super) fn width(text: &[u8], size: f32) -> f32 {
    let sum: u32 = text.iter().map(|code| breadth(*code)).sum();
    points(sum, size)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a line is a few thousand units broad"
)]
fn points(thousandths: u32, size: f32) -> f32 {
    thousandths as f32 * size / 1000.0
}

/// As much of a text as there is room for, on one line, in the codes of the font; what is cut off has an ellipsis in its place. However long
/// the text is, no more of it is looked at than fits.
pub(super) fn fit(text: &str, size: f32, room: f32) -> Vec<u8> {
    let mut codes = Vec::new();
    let (mut sum, mut whole) = (0, 0);
    for character in text.chars() {
        let code = code(character);
        sum += breadth(code);
        if points(sum, size) > room {
            codes.truncate(whole);
            codes.push(ELLIPSIS);
            return codes;
        }
        codes.push(code);
        if points(sum + breadth(ELLIPSIS), size) <= room {
            whole = codes.len();
        }
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_font_has_is_shown_and_nothing_else() {
        let shown = |text| fit(text, 10.0, 1000.0);
        assert_eq!(shown("a (b) \\ ~"), b"a (b) \\ ~");
        assert_eq!(shown("é€…"), [0xe9, 0x80, 0x85]);
        assert_eq!(shown("Привіт \u{fffd}\u{0}\u{81}\u{7f}😀"), b"?????? ?????");
        assert_eq!(shown("a\nb\tc"), b"a b c");
    }

    #[test]
    fn what_is_too_long_is_cut_and_fits() {
        let long = "wW".repeat(100_000);
        for room in [6.0, 20.0, 100.0, 333.3] {
            let cut = fit(&long, 7.5, room);
            assert_eq!(cut.last(), Some(&ELLIPSIS));
            assert!(room < 7.5 || width(&cut, 7.5) <= room, "{room}");
        }
        assert_eq!(fit("crm", 7.5, 12.5), b"crm");
        assert!((width(b"crm", 10.0) - 16.66).abs() < 0.001);
    }
}
