//! The part of Go's templates that CNI configuration templates of Kubernetes nodes use.
//!
//! Fields `.PodCIDR` (the first range), `.PodCIDRRanges` (all of them) and `.Routes` (a default route for each address
//! family); `range`, with or without variables, `if`, `else`, `end`, `.`, variables, comments, and the `-` that trims
//! white space. Anything else is an error that says what: a template must not silently mean something else here.

use std::net::IpAddr;

use super::super::cidr::Cidr;

/// Deepest nesting of `range` and `if`.
const MAX_DEPTH: usize = 16;

/// What a template is filled with.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    List(Vec<String>),
    Number(usize),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Dot,
    Field(String),
    Variable(String),
}

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Operand),
    If(Operand, Vec<Node>, Vec<Node>),
    Range(Range),
}

#[derive(Debug)]
struct Range {
    index: Option<String>,
    value: Option<String>,
    list: Operand,
    body: Vec<Node>,
    otherwise: Vec<Node>,
}

/// A piece of the source.
#[derive(Debug, PartialEq)]
enum Token {
    Text(String),
    Action(String),
}

/// Fills `template` with the pod ranges of this node.
///
/// # Errors
/// What is wrong with the template, or that there is no range.
pub fn render(template: &str, ranges: &[Cidr]) -> Result<String, String> {
    let first = ranges.first().ok_or("there is no pod range")?;
    let mut tokens = tokens(template)?.into_iter();
    let (nodes, end) = parse(&mut tokens, 0)?;
    if let Some(end) = end {
        return Err(format!("{{{{{end}}}}} without its beginning"));
    }
    let routes = [(true, "0.0.0.0/0"), (false, "::/0")].into_iter();
    let routes = routes.filter(|(v4, _)| ranges.iter().any(|r| matches!(r.addr(), IpAddr::V4(_)) == *v4));
    let mut scope = Scope {
        fields: vec![
            ("PodCIDR", Value::Text(first.to_string())),
            (
                "PodCIDRRanges",
                Value::List(ranges.iter().map(ToString::to_string).collect()),
            ),
            ("Routes", Value::List(routes.map(|(_, r)| r.to_owned()).collect())),
        ],
        variables: Vec::new(),
        dot: None,
    };
    let mut out = String::new();
    fill(&nodes, &mut scope, &mut out)?;
    Ok(out)
}

fn tokens(mut rest: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut trim = false;
    loop {
        let start = rest.find("{{");
        let mut text = &rest[..start.unwrap_or(rest.len())];
        if std::mem::take(&mut trim) {
            text = text.trim_start();
        }
        let Some(start) = start else {
            found.push(Token::Text(text.to_owned()));
            return Ok(found);
        };
        let inside = &rest[start + 2..];
        let end = inside.find("}}").ok_or("{{ without }}")?;
        let mut action = &inside[..end];
        rest = &inside[end + 2..];
        if let Some(after) = action
            .strip_prefix('-')
            .filter(|a| a.starts_with(char::is_whitespace))
        {
            action = after;
            text = text.trim_end();
        }
        if let Some(before) = action
            .strip_suffix('-')
            .filter(|a| a.ends_with(char::is_whitespace))
        {
            action = before;
            trim = true;
        }
        found.push(Token::Text(text.to_owned()));
        let action = action.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            found.push(Token::Action(action.to_owned()));
        }
    }
}

/// Nodes up to an `else` or `end`, which is returned with them.
fn parse(
    tokens: &mut std::vec::IntoIter<Token>,
    depth: usize,
) -> Result<(Vec<Node>, Option<String>), String> {
    if depth > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH}"));
    }
    let mut nodes = Vec::new();
    while let Some(token) = tokens.next() {
        let action = match token {
            Token::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Token::Action(action) => action,
        };
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
        match word {
            "end" | "else" if rest.trim().is_empty() => return Ok((nodes, Some(word.to_owned()))),
            "if" => {
                let condition = operand(rest)?;
                let (body, otherwise) = block(tokens, depth, &action)?;
                nodes.push(Node::If(condition, body, otherwise));
            }
            "range" => {
                let (names, list) = rest.rsplit_once(":=").unwrap_or(("", rest));
                let names: Vec<_> = names
                    .split(',')
                    .map(str::trim)
                    .filter(|n| !n.is_empty())
                    .collect();
                let mut names = names.into_iter().map(variable).collect::<Result<Vec<_>, _>>()?;
                if names.len() > 2 {
                    return Err(format!("{{{{{action}}}}}: more than two variables"));
                }
                let value = names.pop();
                let index = names.pop();
                let list = operand(list)?;
                let (body, otherwise) = block(tokens, depth, &action)?;
                nodes.push(Node::Range(Range {
                    index,
                    value,
                    list,
                    body,
                    otherwise,
                }));
            }
            _ => nodes.push(Node::Print(operand(&action)?)),
        }
    }
    Ok((nodes, None))
}

/// What is between the beginning of a block and its `end`, in two parts if there is an `else`.
fn block(
    tokens: &mut std::vec::IntoIter<Token>,
    depth: usize,
    action: &str,
) -> Result<(Vec<Node>, Vec<Node>), String> {
    let (body, end) = parse(tokens, depth + 1)?;
    let (otherwise, end) = match end.as_deref() {
        Some("else") => parse(tokens, depth + 1)?,
        _ => (Vec::new(), end),
    };
    match end.as_deref() {
        Some("end") => Ok((body, otherwise)),
        _ => Err(format!("{{{{{action}}}}} without {{{{end}}}}")),
    }
}

fn operand(text: &str) -> Result<Operand, String> {
    let text = text.trim();
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match (text, text.strip_prefix('.'), text.strip_prefix('$')) {
        (".", ..) => Ok(Operand::Dot),
        (_, Some(field), _) if plain(field) => Ok(Operand::Field(field.to_owned())),
        (_, _, Some(_)) => variable(text).map(Operand::Variable),
        _ => Err(format!(
            "{{{{{text}}}}} is not understood: fields (.PodCIDR, .PodCIDRRanges, .Routes), variables, range, if, else and \
             end are"
        )),
    }
}

fn variable(text: &str) -> Result<String, String> {
    let name = text.strip_prefix('$').unwrap_or_default();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(format!("{text:?} is no variable"));
    }
    Ok(name.to_owned())
}

struct Scope {
    fields: Vec<(&'static str, Value)>,
    variables: Vec<(String, Value)>,
    /// What `.` is within `range`.
    dot: Option<Value>,
}

impl Scope {
    fn value(&self, operand: &Operand) -> Result<Value, String> {
        let found = match operand {
            Operand::Dot => self.dot.clone(),
            // Within range a field would be one of the item, which is text.
            Operand::Field(_) if self.dot.is_some() => None,
            Operand::Field(name) => self
                .fields
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone()),
            Operand::Variable(name) => self
                .variables
                .iter()
                .rev()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone()),
        };
        found.ok_or_else(|| match operand {
            Operand::Dot => "{{.}} outside of range".to_owned(),
            Operand::Field(name) => format!("{{{{.{name}}}}} does not exist here"),
            Operand::Variable(name) => format!("{{{{${name}}}}} does not exist here"),
        })
    }
}

fn fill(nodes: &[Node], scope: &mut Scope, out: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(operand) => match scope.value(operand)? {
                Value::Text(text) => out.push_str(&text),
                Value::Number(n) => out.push_str(&n.to_string()),
                Value::List(_) => return Err("a list can only be used with range or if".into()),
            },
            Node::If(condition, body, otherwise) => {
                let holds = match scope.value(condition)? {
                    Value::Text(text) => !text.is_empty(),
                    Value::List(list) => !list.is_empty(),
                    Value::Number(n) => n != 0,
                };
                fill(if holds { body } else { otherwise }, scope, out)?;
            }
            Node::Range(range) => repeat(range, scope, out)?,
        }
    }
    Ok(())
}

fn repeat(range: &Range, scope: &mut Scope, out: &mut String) -> Result<(), String> {
    let Value::List(list) = scope.value(&range.list)? else {
        return Err("range over what is no list".into());
    };
    if list.is_empty() {
        return fill(&range.otherwise, scope, out);
    }
    let (depth, outer) = (scope.variables.len(), scope.dot.clone());
    for (n, item) in list.into_iter().enumerate() {
        if let Some(name) = &range.index {
            scope.variables.push((name.clone(), Value::Number(n)));
        }
        if let Some(name) = &range.value {
            scope.variables.push((name.clone(), Value::Text(item.clone())));
        }
        scope.dot = Some(Value::Text(item));
        fill(&range.body, scope, out)?;
        scope.variables.truncate(depth);
    }
    scope.dot = outer;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn dual() -> Vec<Cidr> {
        ["10.1.2.0/24", "fd00:1::/64"].map(|c| c.parse().unwrap()).into()
    }

    #[test]
    fn the_usual_templates_are_filled() {
        for (template, wanted) in [
            (r#"{"subnet":"{{.PodCIDR}}"}"#, r#"{"subnet":"10.1.2.0/24"}"#),
            (
                r#"[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]"#,
                r#"[[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1::/64"}]]"#,
            ),
            (
                r#"[{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]"#,
                r#"[{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]"#,
            ),
            (
                "a{{- /* why */ -}}  b {{- range .Routes }} {{.}}{{ end }}",
                "ab 0.0.0.0/0 ::/0",
            ),
            ("{{if .PodCIDR}}yes{{else}}no{{end}}", "yes"),
            ("{{range $r := .Routes}}{{$r}};{{end}}", "0.0.0.0/0;::/0;"),
        ] {
            assert_eq!(render(template, &dual()).unwrap(), wanted, "{template}");
        }
        assert_eq!(
            render("{{range .Routes}}{{.}}{{end}}", &dual()[1..]).unwrap(),
            "::/0"
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_says_what() {
        for (template, word) in [
            ("{{.PodCIDR", "without }}"),
            ("{{.NodeName}}", ".NodeName"),
            ("{{end}}", "without its beginning"),
            ("{{if .PodCIDR}}x", "without {{end}}"),
            ("{{range $a, $b, $c := .Routes}}{{end}}", "two variables"),
            ("{{.PodCIDRRanges}}", "list"),
            ("{{range .PodCIDR}}{{end}}", "no list"),
            ("{{$x}}", "$x"),
            ("{{.}}", "outside"),
            ("{{printf \"%s\" .PodCIDR}}", "not understood"),
            ("{{range .Routes}}{{.PodCIDR}}{{end}}", ".PodCIDR"),
        ] {
            let error = render(template, &dual()).unwrap_err();
            assert!(error.contains(word), "{template}: {error}");
        }
        assert!(render("x", &[]).is_err());
        assert!(render(&"{{if .PodCIDR}}".repeat(100_000), &dual()).is_err());
    }
}
