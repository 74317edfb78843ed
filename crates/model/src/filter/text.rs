//! The tokens of a filter, before it is parsed: how deep its brackets go, how much there is, and where names stand.

use cel::parser::pratt_parser::{Lexer, Token, TokenKind};

use super::FilterError;
use crate::limits::{FILTER_CHOICES_MAX, FILTER_NESTING_MAX, FILTER_SUMS_MAX, FILTER_TOKENS_MAX};

/// A filter as tokens, without blanks and comments.
pub(super) struct Tokens<'a> {
    text: &'a str,
    tokens: Vec<Token>,
}

impl<'a> Tokens<'a> {
    /// Reads them with the lexer of the parser, so that both see the same brackets.
    pub(super) fn read(text: &'a str) -> Result<Self, FilterError> {
        let mut lexer = Lexer::new(text);
        let mut read = Self {
            text,
            tokens: Vec::new(),
        };
        let (mut open, mut counted, mut choices, mut sums) = (0_usize, 0, 0, 0);
        loop {
            let token = lexer.lex();
            match token.kind {
                TokenKind::TokEnd => break,
                TokenKind::TokError => {
                    let problem = lexer.get_error().map(|error| error.message.clone());
                    let problem = problem.unwrap_or_else(|| "cannot be read".into());
                    return Err(read.error(token.start, problem));
                }
                TokenKind::TokWhitespace | TokenKind::TokComment => continue,
                TokenKind::TokLeftBracket | TokenKind::TokLeftBrace | TokenKind::TokLeftParen => {
                    open += 1;
                }
                TokenKind::TokRightBracket
                | TokenKind::TokRightBrace
                | TokenKind::TokRightParen => open = open.saturating_sub(1),
                TokenKind::TokQuestion => choices += 1,
                TokenKind::TokPlus => sums += 1,
                _ => {}
            }
            counted += usize::from(!matches!(
                token.kind,
                TokenKind::TokComma
                    | TokenKind::TokNull
                    | TokenKind::TokFalse
                    | TokenKind::TokTrue
                    | TokenKind::TokInt
                    | TokenKind::TokUint
                    | TokenKind::TokFloat
                    | TokenKind::TokString
                    | TokenKind::TokBytes
            ));
            for (count, max, what) in [
                (open, FILTER_NESTING_MAX, "brackets within brackets"),
                (counted, FILTER_TOKENS_MAX, "names and operators"),
                (choices, FILTER_CHOICES_MAX, "times `? :`"),
                (sums, FILTER_SUMS_MAX, "times `+`"),
            ] {
                if count > max {
                    let problem = format!("a filter may have {max} {what}");
                    return Err(read.error(token.start, problem));
                }
            }
            read.tokens.push(token);
        }
        if read.tokens.is_empty() {
            return Err(FilterError::whole(
                "is empty; write `none` where there is to be no filter",
            ));
        }
        Ok(read)
    }

    /// An error about the first place of a name: of a function, or of a variable.
    pub(super) fn about(&self, name: &str, function: bool, problem: String) -> FilterError {
        let named = self.tokens.iter().enumerate().find(|(index, token)| {
            let before = index.checked_sub(1).and_then(|i| self.tokens.get(i));
            let after = self.tokens.get(index + 1);
            let called = after.is_some_and(|t| t.kind == TokenKind::TokLeftParen);
            let field = before.is_some_and(|t| t.kind == TokenKind::TokDot);
            self.text.get(token.start..token.end) == Some(name)
                && called == function
                && (function || !field)
        });
        match named {
            Some((_, token)) => self.error(token.start, problem),
            None => FilterError::whole(problem),
        }
    }

    fn error(&self, offset: usize, problem: impl Into<String>) -> FilterError {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        FilterError {
            at: Some((before.matches('\n').count() + 1, line.chars().count() + 1)),
            problem: problem.into(),
        }
    }
}

/// A place as the parser tells it; below one it knows none.
pub(super) fn place((line, column): (isize, isize)) -> Option<(usize, usize)> {
    let (line, column) = (usize::try_from(line).ok()?, usize::try_from(column).ok()?);
    (line > 0 && column > 0).then_some((line, column))
}
