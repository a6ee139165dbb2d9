//! Splits a text of rules into statements and statements into words.

/// A directive and its arguments.
#[derive(Debug, PartialEq)]
pub struct Statement {
    /// Its first line, from 1.
    pub line: u32,
    /// The words, without quotes.
    pub words: Vec<String>,
}

/// The statements of a text: comments, empty lines and sections like
/// `<IfModule …>` are left out, lines that end in a backslash go on.
pub fn statements(text: &str) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let mut whole = line.trim_end_matches('\r').to_owned();
        if whole.trim_start().starts_with('#') {
            continue;
        }
        while whole.ends_with('\\') {
            whole.pop();
            let Some((_, next)) = lines.next() else { break };
            whole.push_str(next.trim_end_matches('\r').trim_start());
        }
        let words = words(&whole);
        if !words.is_empty() && !words[0].starts_with('<') {
            statements.push(Statement { line: number as u32 + 1, words });
        }
    }
    statements
}

/// Words are parted by white space; one in double quotes may hold any
/// character, with `\"` for the quote.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut characters = line.trim().chars().peekable();
    while let Some(&first) = characters.peek() {
        if first.is_ascii_whitespace() {
            characters.next();
            continue;
        }
        let mut word = String::new();
        if first == '"' {
            characters.next();
            while let Some(character) = characters.next() {
                match character {
                    '"' => break,
                    '\\' if characters.peek() == Some(&'"') => word.extend(characters.next()),
                    _ => word.push(character),
                }
            }
        } else {
            while let Some(character) = characters.next_if(|character| !character.is_ascii_whitespace()) {
                word.push(character);
            }
        }
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_go_on_over_lines_and_keep_what_is_quoted() {
        let text = "# note\nSecRule ARGS \"@rx a\\\"b\\d # c\" \\\n    \"id:1,\\\n    deny\"\n\nSecMarker END\n<IfModule x>\n";
        assert_eq!(
            statements(text),
            [
                Statement {
                    line: 2,
                    words: ["SecRule", "ARGS", "@rx a\"b\\d # c", "id:1,deny"].map(String::from).to_vec()
                },
                Statement { line: 6, words: ["SecMarker", "END"].map(String::from).to_vec() },
            ]
        );
    }
}
