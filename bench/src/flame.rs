//! Flame graphs: stacks out of `perf script`, and their picture as SVG, in which a pointer over a box shows the function.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The picture's width in pixels, and a row's height.
const WIDTH: f64 = 1600.0;
const ROW: f64 = 16.0;
/// Narrower boxes are left out.
const NARROWEST: f64 = 0.4;
/// A letter's width in the font that is used.
const LETTER: f64 = 6.2;

/// A function with how many samples were in it or in what it called.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stacks {
    samples: usize,
    calls: BTreeMap<String, Stacks>,
}

impl Stacks {
    fn add(&mut self, frames: &[String]) {
        self.samples += 1;
        if let Some((first, rest)) = frames.split_first() {
            self.calls.entry(first.clone()).or_default().add(rest);
        }
    }

    fn depth(&self) -> usize {
        1 + self.calls.values().map(Stacks::depth).max().unwrap_or(0)
    }
}

/// Reads `perf script --fields=comm,ip,sym`: a line with the thread's name, then a line for each frame, the innermost first, then an
/// empty line.
pub(crate) fn fold(script: &str) -> Stacks {
    let mut stacks = Stacks::default();
    for sample in script.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
        let Some(thread) = lines.next() else { continue };
        let symbol = |line: &str| line.split_once(' ').map_or("?", |(_, symbol)| symbol).trim().to_owned();
        let mut frames: Vec<String> = lines.map(|line| plain(&symbol(line.trim()))).collect();
        frames.push(thread.trim().to_owned());
        frames.reverse();
        stacks.add(&frames);
    }
    stacks
}

/// A symbol without the hash at the end of Rust's names.
fn plain(symbol: &str) -> String {
    match symbol.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name.to_owned(),
        _ => symbol.to_owned(),
    }
}

/// The picture.
pub(crate) fn draw(title: &str, stacks: &Stacks) -> String {
    let height = (stacks.depth() as f64 + 1.0) * ROW;
    // Writing to a string cannot fail.
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"monospace\" font-size=\"10\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let heading = format!("{title}: {} samples", stacks.samples);
    let _ = writeln!(svg, "<text x=\"4\" y=\"12\">{}</text>", escape(&heading));
    boxes(&mut svg, stacks, 0.0, height - ROW, WIDTH / stacks.samples.max(1) as f64);
    svg.push_str("</svg>\n");
    svg
}

fn boxes(svg: &mut String, stacks: &Stacks, mut x: f64, y: f64, scale: f64) {
    for (index, (name, below)) in stacks.calls.iter().enumerate() {
        let width = below.samples as f64 * scale;
        if width >= NARROWEST {
            let name = escape(name);
            let letters = (width / LETTER) as usize;
            let label: String = if letters < 3 { String::new() } else { name.chars().take(letters).collect() };
            let shade = 190 - (index % 4) * 15;
            let _ = writeln!(
                svg,
                "<g><title>{name}: {} samples</title><rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"rgb(250,{shade},90)\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{label}</text></g>",
                below.samples,
                ROW - 1.0,
                x + 2.0,
                y + 11.0,
            );
            boxes(svg, below, x, y - ROW, scale);
        }
        x += width;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str =
        "worker\n\tffff1 inner::f::h0123456789abcdef\n\tffff2 main\n\nworker\n\tffff3 other<T>\n\tffff2 main\n\n";

    #[test]
    fn stacks_are_counted_from_the_outside() {
        let stacks = fold(SCRIPT);
        assert_eq!(stacks.samples, 2);
        let main = &stacks.calls["worker"].calls["main"];
        assert_eq!(main.samples, 2);
        assert_eq!(main.calls.keys().collect::<Vec<_>>(), ["inner::f", "other<T>"]);
    }

    #[test]
    fn the_picture_names_functions() {
        let svg = draw("get", &fold(SCRIPT));
        assert!(
            svg.contains("get: 2 samples") && svg.contains("<title>inner::f: 1 samples") && svg.contains("other&lt;T&gt;"),
            "{svg}"
        );
    }
}
