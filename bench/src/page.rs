//! `docs/performance.md`: the newest run of each benchmark, as tables.

use std::fmt::Write;

use crate::report::{Figure, PhaseFigures, Run};

/// The page. Writing to a string cannot fail, so results of `write!` are ignored.
pub(crate) fn render<'a>(runs: impl Iterator<Item = &'a Run>) -> String {
    let mut page = String::from(include_str!("page_head.md"));
    for run in runs {
        let machine = &run.machine;
        let _ = write!(page, "\n## {}", run.benchmark);
        if let Some(peer) = &run.peer {
            let _ = write!(page, " against {peer}");
        }
        let _ = writeln!(
            page,
            "\n\n{}, commit {}, {} ({} cores, {} MiB, Linux {}); load {:.2} at the start, {:.2} at the end.",
            run.started,
            run.commit,
            machine.cpu,
            machine.cores,
            machine.memory_mib,
            machine.kernel,
            machine.load,
            run.load_at_end
        );
        if let Some(note) = &run.note {
            let _ = writeln!(page, "\n{note}");
        }
        figures(&mut page, &run.figures);
        phases(&mut page, &run.phases);
    }
    page
}

fn figures(page: &mut String, figures: &[Figure]) {
    if figures.is_empty() {
        return;
    }
    let with_peer = figures.iter().any(|figure| !figure.peer.is_empty());
    let with_wanted = figures.iter().any(|figure| figure.wanted.is_some());
    let mut head = vec!["What", "Ours"];
    head.extend(with_wanted.then_some("Wanted"));
    head.extend(with_peer.then_some(["Peer", "Ratio", "Goal"]).into_iter().flatten());
    let _ = writeln!(page, "\n| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
    for figure in figures {
        let _ = write!(page, "| {} | {} |", figure.name, spread(&figure.ours));
        if with_wanted {
            let _ = write!(page, " {} |", wanted(figure));
        }
        if with_peer {
            let ratios = figure.ratios();
            let _ = write!(page, " {} | {} | {} |", spread(&figure.peer), spread(&ratios), goal(figure.goal, &ratios));
        }
        page.push('\n');
    }
}

/// What ours should come to, and whether its median does.
fn wanted(figure: &Figure) -> String {
    let (Some(wanted), Some(median)) = (figure.wanted, median(&figure.ours)) else { return String::new() };
    let (sign, is_met) = if figure.more_is_better { ('≥', median >= wanted) } else { ('≤', median <= wanted) };
    format!("{sign} {wanted} {}", if is_met { "met" } else { "missed" })
}

/// A goal, and whether the median ratio reaches it.
fn goal(goal: Option<f64>, ratios: &[f64]) -> String {
    match (goal, median(ratios)) {
        (Some(goal), Some(ratio)) => format!("{goal} {}", if ratio >= goal { "met" } else { "missed" }),
        _ => String::new(),
    }
}

fn phases(page: &mut String, phases: &[PhaseFigures]) {
    if phases.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "\n| Phase | Ours, a second | Peer | Ratio | Goal | p50 ms | p99 ms | CPU each, µs | Ratio | Peak MiB |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    for phase in phases {
        let goal = goal(phase.goal, &phase.rate.ratios());
        let writes = match (median(&phase.writes.ours), median(&phase.writes.peer)) {
            (Some(ours), peer) => format!(" ({} writes a second / {})", number(ours), peer.map_or("-".to_owned(), number)),
            _ => String::new(),
        };
        let _ = writeln!(
            page,
            "| {}{writes} | {} | {} | {} | {goal} | {} | {} | {} | {} | {} |",
            phase.name,
            spread(&phase.rate.ours),
            spread(&phase.rate.peer),
            spread(&phase.rate.ratios()),
            both(&phase.p50_ms),
            both(&phase.p99_ms),
            both(&phase.cpu_us),
            spread(&phase.cpu_us.ratios()),
            both(&phase.peak_mib),
        );
    }
}

/// The medians of both sides.
fn both(figure: &Figure) -> String {
    let text = |values: &[f64]| median(values).map_or("-".to_owned(), number);
    format!("{} / {}", text(&figure.ours), text(&figure.peer))
}

/// The middle value, or the mean of the two in the middle.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        // Divided by a time that was too short to be counted.
        infinite if !infinite.is_finite() => "-".to_owned(),
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Minimum, median and maximum, or the only value.
fn spread(values: &[f64]) -> String {
    let Some(median) = median(values) else { return "-".to_owned() };
    if values.len() == 1 {
        return number(median);
    }
    let minimum = values.iter().copied().fold(f64::INFINITY, f64::min);
    let maximum = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{} / {} / {}", number(minimum), number(median), number(maximum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_short() {
        assert_eq!(spread(&[]), "-");
        assert_eq!(spread(&[1.234]), "1.23");
        assert_eq!(spread(&[f64::INFINITY]), "-");
        assert_eq!(spread(&[250.4, 1.0, 3.0, 5.0]), "1.00 / 4.00 / 250");
    }

    #[test]
    fn a_wanted_value_is_met_or_missed() {
        let check = |ours: f64, more_is_better, expected: &str| {
            let figure = Figure { ours: vec![ours], wanted: Some(2.0), more_is_better, ..Figure::default() };
            assert_eq!(wanted(&figure), expected);
        };
        check(1.9, false, "≤ 2 met");
        check(2.1, false, "≤ 2 missed");
        check(2.1, true, "≥ 2 met");
        check(1.9, true, "≥ 2 missed");
    }

    #[test]
    fn a_goal_is_met_or_missed() {
        let figure = |ours: f64| Figure { ours: vec![ours], peer: vec![1.0], more_is_better: true, ..Figure::default() };
        let phase = |ours| PhaseFigures { name: "p".into(), goal: Some(4.0), rate: figure(ours), ..PhaseFigures::default() };
        let mut page = String::new();
        phases(&mut page, &[phase(4.5), phase(3.9)]);
        assert!(page.contains("| 4 met |") && page.contains("| 4 missed |"), "{page}");
    }
}
