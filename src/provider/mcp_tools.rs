//! `mcp/v1`, the tools that are built in: `echo`, `add`, `multiply` and `concat`; and what concerns all servers.
//!
//! Arguments stand beside each other in the parameters, or together under `arguments`; where both name the
//! same one, `arguments` wins, as the others may be defaults. Integers stay exact integers, up to 128 bits;
//! what would not be exact is refused. With a float among the numbers the result is a float.
//!
//! The lists tell what is built in and what the configured servers offer, as far as they have ever been reached.
//! `resources/read` and `prompts/get` find the server by what is asked for, as not every address is the name of a
//! method; their calls are passed on to it, like any others of it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Number, Value, json};

use super::mcp::{Catalog, Kind};
use super::{Answer, CallCx, Provider};
use crate::core::code::Code;
use crate::core::failure::Failure;
use crate::core::protocol::ProtocolId;

/// The provider of the built-in tools of `mcp/v1`.
#[derive(Debug)]
pub struct McpTools {
    protocol: ProtocolId,
    catalog: Arc<Catalog>,
}

impl McpTools {
    /// The built-in tools.
    #[must_use]
    pub fn new() -> McpTools {
        McpTools::over(Arc::default())
    }

    /// The built-in tools, beside the servers which write into the catalog.
    #[must_use]
    pub fn over(catalog: Arc<Catalog>) -> McpTools {
        McpTools { protocol: "mcp/v1".parse().expect("a protocol's name"), catalog }
    }

    /// Why a call was not passed on.
    fn not_passed_on(&self, key: &str, params: &Value) -> Failure {
        let Some(name) = params[key].as_str() else {
            return invalid(format!("`{key}` is missing; it must be text"));
        };
        let known = self.catalog.servers().join(", ");
        let known = if known.is_empty() { "none is configured".to_owned() } else { known };
        let message = format!("no MCP server offers {name} ({known}); the lists have what there is");
        invalid(message).with("server", params["server"].as_str().unwrap_or_default())
    }
}

/// What is read or got by a parameter that names it, and the parameter.
fn named_by(method: &str) -> Option<(Kind, &'static str)> {
    match method {
        "resources/read" => Some((Kind::Resource, "uri")),
        "prompts/get" => Some((Kind::Prompt, "name")),
        _ => None,
    }
}

/// Whether the method is that of a built-in tool: no server's tool of this name is meant by it.
pub(super) fn is_built_in(method: &str) -> bool {
    Tool::find(method).is_some()
}

impl Default for McpTools {
    fn default() -> McpTools {
        McpTools::new()
    }
}

#[async_trait]
impl Provider for McpTools {
    fn name(&self) -> &str {
        "mcp-tools"
    }

    fn protocol(&self) -> &ProtocolId {
        &self.protocol
    }

    fn serves(&self, method: &str) -> bool {
        match method {
            "ping" | "tools/list" | "resources/list" | "prompts/list" | "server_info" => true,
            _ => named_by(method).is_some() || is_built_in(method),
        }
    }

    fn passes_on(&self, method: &str, params: &Value) -> Option<(String, Value)> {
        let (kind, key) = named_by(method)?;
        let (prefix, name) = (kind.prefix(), params[key].as_str()?);
        let meant = match params["server"].as_str() {
            Some(server) => format!("{prefix}{server}.{name}"),
            None => format!("{prefix}{name}"),
        };
        let arguments = params.get("arguments").cloned().unwrap_or_else(|| json!({}));
        Some((meant, json!({"arguments": arguments})))
    }

    async fn call(&self, _cx: &CallCx, method: &str, params: Value) -> Result<Answer, Failure> {
        if let Some((_, key)) = named_by(method) {
            return Err(self.not_passed_on(key, &params));
        }
        let result = match method {
            "ping" => json!({"response": "pong"}),
            "tools/list" => {
                let mut tools = Tool::ALL.map(Tool::describe).to_vec();
                tools.extend(self.catalog.listed(Kind::Tool));
                json!({"tools": tools})
            }
            "resources/list" => {
                let templates = self.catalog.templates();
                json!({"resources": self.catalog.listed(Kind::Resource), "resource_templates": templates})
            }
            "prompts/list" => json!({"prompts": self.catalog.listed(Kind::Prompt)}),
            "server_info" => {
                let version = env!("CARGO_PKG_VERSION");
                json!({"name": "gleitzeit", "version": version, "servers": self.catalog.about()})
            }
            _ => {
                let tool = Tool::find(method).ok_or_else(|| {
                    Failure::new(Code::MethodNotSupported, format!("there is no built-in tool {method}"))
                })?;
                tool.call(&arguments(params)?)?
            }
        };
        Ok(result.into())
    }
}

/// A built-in tool.
#[derive(Debug, Clone, Copy)]
enum Tool {
    Echo,
    Add,
    Multiply,
    Concat,
}

impl Tool {
    const ALL: [Tool; 4] = [Tool::Echo, Tool::Add, Tool::Multiply, Tool::Concat];

    /// By its method: `tool.NAME`.
    fn find(method: &str) -> Option<Tool> {
        let name = method.strip_prefix("tool.")?;
        Tool::ALL.into_iter().find(|tool| tool.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Tool::Echo => "echo",
            Tool::Add => "add",
            Tool::Multiply => "multiply",
            Tool::Concat => "concat",
        }
    }

    fn call(self, arguments: &Map<String, Value>) -> Result<Value, Failure> {
        match self {
            Tool::Echo => Ok(echo(arguments)),
            Tool::Add => calculate(arguments, "+", 0, i128::checked_add, |a, b| a + b),
            Tool::Multiply => calculate(arguments, "*", 1, i128::checked_mul, |a, b| a * b),
            Tool::Concat => concat(arguments),
        }
    }

    /// As MCP lists a tool.
    fn describe(self) -> Value {
        let numbers = |default: i64| {
            let number = json!({"type": "number", "default": default});
            json!({"a": number, "b": number})
        };
        let (description, properties) = match self {
            Tool::Echo => ("Gives back a message", json!({"message": {"default": ""}})),
            Tool::Add => ("Adds two numbers", numbers(0)),
            Tool::Multiply => ("Multiplies two numbers", numbers(1)),
            Tool::Concat => (
                "Joins texts",
                json!({
                    "strings": {"type": "array", "default": []},
                    "separator": {"type": "string", "default": " "},
                }),
            ),
        };
        json!({
            "name": self.name(), "description": description,
            "inputSchema": {"type": "object", "properties": properties},
        })
    }
}

/// The arguments in the parameters of a call.
///
/// # Errors
/// `INVALID_PARAMS`: they are no object.
pub(super) fn arguments(params: Value) -> Result<Map<String, Value>, Failure> {
    let Value::Object(mut arguments) = params else {
        return Err(invalid("the parameters are no object; name them, such as {\"a\": 1, \"b\": 2}"));
    };
    match arguments.remove("arguments") {
        None | Some(Value::Null) => {}
        Some(Value::Object(nested)) => arguments.extend(nested),
        Some(other) => return Err(invalid(format!("`arguments` is {other}; it must be an object"))),
    }
    Ok(arguments)
}

fn echo(arguments: &Map<String, Value>) -> Value {
    let message = arguments.get("message").cloned().unwrap_or_else(|| "".into());
    let length = text_of(&message).chars().count();
    json!({"response": message, "echoed": true, "length": length})
}

fn concat(arguments: &Map<String, Value>) -> Result<Value, Failure> {
    let none = Vec::new();
    let strings = match arguments.get("strings") {
        None => &none,
        Some(Value::Array(strings)) => strings,
        Some(other) => return Err(invalid(format!("`strings` is {other}; it must be a list"))),
    };
    let separator = match arguments.get("separator") {
        None => " ",
        Some(Value::String(separator)) => separator,
        Some(other) => return Err(invalid(format!("`separator` is {other}; it must be text"))),
    };
    let texts: Vec<String> = strings.iter().map(text_of).collect();
    Ok(json!({"response": texts.join(separator), "joined": true, "count": texts.len()}))
}

/// Text as it is, everything else as JSON.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn calculate(
    arguments: &Map<String, Value>,
    sign: &str,
    default: i64,
    exact: fn(i128, i128) -> Option<i128>,
    rounded: fn(f64, f64) -> f64,
) -> Result<Value, Failure> {
    let a = number(arguments, "a", default)?;
    let b = number(arguments, "b", default)?;
    let result = if is_integer(&a) && is_integer(&b) {
        integer(&a).zip(integer(&b)).and_then(|(a, b)| exact(a, b)).and_then(Number::from_i128)
    } else {
        // Numbers beyond a float are infinite, and infinity is no JSON.
        a.as_f64().zip(b.as_f64()).and_then(|(a, b)| Number::from_f64(rounded(a, b)))
    };
    let Some(result) = result else {
        return Err(invalid(format!(
            "{a} {sign} {b} cannot be calculated: integers have 128 bits, floats 64"
        )));
    };
    Ok(
        json!({"response": result.to_string(), "result": result, "calculation": format!("{a} {sign} {b} = {result}")}),
    )
}

fn number(arguments: &Map<String, Value>, name: &str, default: i64) -> Result<Number, Failure> {
    match arguments.get(name) {
        None => Ok(default.into()),
        Some(Value::Number(number)) => Ok(number.clone()),
        Some(other) => Err(invalid(format!("`{name}` is {other}; it must be a number"))),
    }
}

/// Whether the number is written as an integer: `1`, not `1.0`.
fn is_integer(number: &Number) -> bool {
    !number.to_string().contains(['.', 'e', 'E'])
}

fn integer(number: &Number) -> Option<i128> {
    number.to_string().parse().ok()
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidParams, message)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::core::id::{Id, TaskKey};

    async fn call(method: &str, params: &str) -> Result<String, Failure> {
        let cx = CallCx {
            key: TaskKey::alone(Id::parse("t").expect("an id")),
            attempt: 1,
            timeout: Duration::from_secs(1),
            cancel: CancellationToken::new(),
            traceparent: None,
            priority: crate::core::priority::Priority::NORMAL,
            output: Default::default(),
        };
        let params = serde_json::from_str(params).expect("JSON");
        let answer = McpTools::new().call(&cx, method, params).await?;
        Ok(answer.result.to_string())
    }

    #[tokio::test]
    async fn tools_answer_as_they_always_did() {
        for (method, params, expected) in [
            (
                "tool.echo",
                r#"{"message": "Testing MCP provider"}"#,
                r#"{"response":"Testing MCP provider","echoed":true,"length":20}"#,
            ),
            (
                "tool.echo",
                r#"{"message": "\u00e4\ud83d\ude00"}"#,
                r#"{"response":"ä😀","echoed":true,"length":2}"#,
            ),
            ("tool.echo", "{}", r#"{"response":"","echoed":true,"length":0}"#),
            (
                "tool.add",
                r#"{"a": 42, "b": 58}"#,
                r#"{"response":"100","result":100,"calculation":"42 + 58 = 100"}"#,
            ),
            ("tool.add", "{}", r#"{"response":"0","result":0,"calculation":"0 + 0 = 0"}"#),
            (
                "tool.add",
                r#"{"a": 0, "b": 0, "arguments": {"a": 10, "b": 20}}"#,
                r#"{"response":"30","result":30,"calculation":"10 + 20 = 30"}"#,
            ),
            (
                "tool.add",
                r#"{"a": 123456789012345678901234567890, "b": -1}"#,
                r#"{"response":"123456789012345678901234567889","result":123456789012345678901234567889,"calculation":"123456789012345678901234567890 + -1 = 123456789012345678901234567889"}"#,
            ),
            (
                "tool.add",
                r#"{"a": 0.5, "b": 1}"#,
                r#"{"response":"1.5","result":1.5,"calculation":"0.5 + 1 = 1.5"}"#,
            ),
            (
                "tool.add",
                r#"{"a": 1.0, "b": 1}"#,
                r#"{"response":"2.0","result":2.0,"calculation":"1.0 + 1 = 2.0"}"#,
            ),
            (
                "tool.multiply",
                r#"{"a": 100, "b": 2}"#,
                r#"{"response":"200","result":200,"calculation":"100 * 2 = 200"}"#,
            ),
            ("tool.multiply", "{}", r#"{"response":"1","result":1,"calculation":"1 * 1 = 1"}"#),
            (
                "tool.concat",
                r#"{"strings": ["a", "b", 3], "separator": " | "}"#,
                r#"{"response":"a | b | 3","joined":true,"count":3}"#,
            ),
            (
                "tool.concat",
                r#"{"strings": ["a", {"b": true}]}"#,
                r#"{"response":"a {\"b\":true}","joined":true,"count":2}"#,
            ),
            ("tool.concat", "{}", r#"{"response":"","joined":true,"count":0}"#),
            ("ping", "{}", r#"{"response":"pong"}"#),
        ] {
            assert_eq!(call(method, params).await.expect(method), expected, "{method} {params}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_exact_is_refused() {
        for (method, params, part) in [
            (
                "tool.multiply",
                r#"{"a": 170141183460469231731687303715884105727, "b": 2}"#,
                "cannot be calculated",
            ),
            ("tool.add", r#"{"a": 1e308, "b": 1e308}"#, "cannot be calculated"),
            ("tool.add", r#"{"a": 1e400, "b": 1}"#, "cannot be calculated"),
            ("tool.add", r#"{"a": "42"}"#, "`a` is \"42\"; it must be a number"),
            ("tool.add", r#"{"arguments": 1}"#, "`arguments` is 1"),
            ("tool.concat", r#"{"strings": "abc"}"#, "must be a list"),
            ("tool.concat", r#"{"separator": 1}"#, "must be text"),
            ("tool.add", "[1, 2]", "name them"),
        ] {
            let failure = call(method, params).await.expect_err(part);
            assert_eq!((failure.code, failure.retryable), (Code::InvalidParams, false), "{failure}");
            assert!(failure.message.contains(part), "{failure}");
        }
    }

    #[tokio::test]
    async fn every_listed_tool_can_be_called() {
        let tools: Value =
            serde_json::from_str(&call("tools/list", "{}").await.expect("a list")).expect("JSON");
        let tools = tools["tools"].as_array().expect("tools").clone();
        assert_eq!(tools.len(), 4);
        for tool in tools {
            let method = format!("tool.{}", tool["name"].as_str().expect("a name"));
            assert!(McpTools::new().serves(&method), "{method}");
            assert!(call(&method, "{}").await.is_ok(), "{method}");
        }
        assert!(!McpTools::new().serves("tool.other"));
        assert!(call("server_info", "{}").await.expect("facts").contains(env!("CARGO_PKG_VERSION")));
    }
}
