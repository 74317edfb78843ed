//! What a filter may say: names that there are, and nothing whose cost is more than a few passes over the event.

use std::cell::Cell;

use cel::common::ast::{ComprehensionExpr, Expr, IdedExpr, operators};

use super::text::Tokens;
use super::{EVENT, FilterError};
use crate::limits::{FILTER_DEPTH_MAX, FILTER_LIST_MAX, FILTER_LOOP_MAX};

/// Functions that there are; all but `size` and conversions are called on a text.
const FUNCTIONS: [&str; 9] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "int",
    "uint",
    "double",
    "string",
    "bool",
];

/// What the parser turns into something else: named when it was not used as it must be.
const MACROS: [(&str, &str); 6] = [
    ("has", "has(event.data.field)"),
    ("all", "list.all(x, condition)"),
    ("exists", "list.exists(x, condition)"),
    ("exists_one", "list.exists_one(x, condition)"),
    ("existsOne", "list.exists_one(x, condition)"),
    ("matches", ""),
];

/// Operators, and what the parser makes of macros.
const OPERATORS: [&str; 17] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
];

/// Within what an expression stands.
#[derive(Clone, Copy)]
struct Within<'a> {
    /// How many expressions it stands in.
    depth: usize,
    /// The variable of the loop it stands in.
    variable: Option<&'a str>,
    /// Whether it may look at the event: in a loop over the event that would be a loop within a loop.
    sees_event: bool,
    /// Whether a list may be written here.
    list: bool,
}

impl Within<'_> {
    fn inner(self) -> Self {
        Self {
            depth: self.depth + 1,
            list: false,
            ..self
        }
    }
}

struct Checker<'a> {
    tokens: &'a Tokens<'a>,
    /// What was found within loops.
    looped: Cell<usize>,
}

/// Checks what was parsed. A list that is compared to something is put on the right, where the interpreter can compare it to one in an event.
pub(super) fn check(expression: &mut IdedExpr, tokens: &Tokens<'_>) -> Result<(), FilterError> {
    let within = Within {
        depth: 0,
        variable: None,
        sees_event: true,
        list: false,
    };
    let checker = Checker {
        tokens,
        looped: Cell::new(0),
    };
    checker.check(&mut expression.expr, within)
}

impl Checker<'_> {
    fn check(&self, expression: &mut Expr, within: Within<'_>) -> Result<(), FilterError> {
        if within.depth > FILTER_DEPTH_MAX {
            return Err(FilterError::whole(format!(
                "a filter may have {FILTER_DEPTH_MAX} operations within operations"
            )));
        }
        if within.variable.is_some() {
            self.looped.set(self.looped.get() + 1);
        }
        if self.looped.get() > FILTER_LOOP_MAX {
            return Err(FilterError::whole(format!(
                "all loops (`exists`, `exists_one`, `all`) of a filter may have {FILTER_LOOP_MAX} operations and values together"
            )));
        }
        match expression {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name, within),
            Expr::Select(select) => self.check(&mut select.operand.expr, within.inner()),
            Expr::Call(call) => {
                let Some(target) = &mut call.target else {
                    return self.call(&call.func_name, &mut call.args, within);
                };
                self.function(&call.func_name)?;
                self.check(&mut target.expr, within.inner())?;
                self.all(&mut call.args, within.inner())
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, within),
            Expr::List(list) if within.list => self.all(&mut list.elements, within.inner()),
            Expr::List(_) => Err(FilterError::whole(
                "a list may stand behind `in`, beside `==` and `!=`, and before `.exists`, `.exists_one` and `.all`",
            )),
            Expr::Map(_) | Expr::Struct(_) => {
                Err(FilterError::whole("`{ }` has no use in a filter"))
            }
            Expr::Unspecified => Err(FilterError::whole("cannot be read")),
        }
    }

    fn all(&self, expressions: &mut [IdedExpr], within: Within<'_>) -> Result<(), FilterError> {
        expressions
            .iter_mut()
            .try_for_each(|expression| self.check(&mut expression.expr, within))
    }

    fn call(
        &self,
        name: &str,
        arguments: &mut [IdedExpr],
        within: Within<'_>,
    ) -> Result<(), FilterError> {
        let inner = within.inner();
        let list = Within {
            list: true,
            ..inner
        };
        match (name, arguments) {
            (operators::EQUALS | operators::NOT_EQUALS, [left, right]) => {
                if matches!(left.expr, Expr::List(_)) {
                    std::mem::swap(left, right);
                }
                self.check(&mut left.expr, list)?;
                self.check(&mut right.expr, list)
            }
            (operators::IN, [entry, container]) => {
                self.check(&mut entry.expr, inner)?;
                self.check(&mut container.expr, list)
            }
            // The parser writes it around the condition of a loop, and nobody else can.
            (operators::NOT_STRICTLY_FALSE, arguments) => self.all(arguments, inner),
            (name, arguments) if OPERATORS.contains(&name) => self.all(arguments, inner),
            (name, arguments) => {
                self.function(name)?;
                self.all(arguments, inner)
            }
        }
    }

    fn function(&self, name: &str) -> Result<(), FilterError> {
        if FUNCTIONS.contains(&name) {
            return Ok(());
        }
        let problem = match MACROS.iter().find(|(known, _)| *known == name) {
            Some(("matches", _)) => "there are no regular expressions in filters; use `contains`, `startsWith` and `endsWith`".into(),
            Some((_, usage)) => format!("`{name}` is written `{usage}`"),
            None => format!(
                "there is no function `{}`; there are {}, has, exists, exists_one, all",
                crate::event::cut(name),
                FUNCTIONS.join(", ")
            ),
        };
        Err(self.tokens.about(name, true, problem))
    }

    fn name(&self, name: &str, within: Within<'_>) -> Result<(), FilterError> {
        // What the parser makes for itself begins so, and nothing else can.
        if name.starts_with('@') || within.variable == Some(name) {
            return Ok(());
        }
        let problem = if name != EVENT {
            format!(
                "there is no variable `{}`; everything is in `event`, for example event.type or event.data.amount",
                crate::event::cut(name)
            )
        } else if within.sees_event {
            return Ok(());
        } else {
            format!(
                "`event` cannot be looked at for every entry of a list of it; that works for a list of up to {FILTER_LIST_MAX} entries that the filter itself writes"
            )
        };
        Err(self.tokens.about(name, false, problem))
    }

    fn comprehension(
        &self,
        comprehension: &mut ComprehensionExpr,
        within: Within<'_>,
    ) -> Result<(), FilterError> {
        if matches!(comprehension.accu_init.expr, Expr::List(_)) {
            return Err(FilterError::whole(
                "there is no `map` and no `filter` in filters; use `exists`, `exists_one` and `all`",
            ));
        }
        if within.variable.is_some() {
            return Err(FilterError::whole(
                "a loop (`exists`, `exists_one`, `all`) cannot stand within another",
            ));
        }
        let variable = comprehension.iter_var.clone();
        if variable == EVENT {
            return Err(FilterError::whole(
                "the variable of a loop cannot be called `event`",
            ));
        }
        let list = Within {
            list: true,
            ..within.inner()
        };
        self.check(&mut comprehension.iter_range.expr, list)?;
        let body = Within {
            variable: Some(&variable),
            sees_event: matches!(&comprehension.iter_range.expr, Expr::List(list) if list.elements.len() <= FILTER_LIST_MAX),
            ..within.inner()
        };
        for part in [
            &mut comprehension.accu_init,
            &mut comprehension.loop_cond,
            &mut comprehension.loop_step,
            &mut comprehension.result,
        ] {
            self.check(&mut part.expr, body)?;
        }
        Ok(())
    }
}
