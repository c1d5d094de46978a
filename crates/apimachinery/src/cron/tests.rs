use super::*;

fn at(time: &str) -> Timestamp {
    time.parse().expect("is a time")
}

/// Runs after a start, as the vectors write them.
fn runs(schedule: &Schedule, start: &str, count: usize) -> String {
    let mut time = at(start);
    let mut found = Vec::new();
    for _ in 0..count {
        let Some(next) = schedule.next(time) else {
            found.push("never".to_owned());
            break;
        };
        found.push(next.to_string());
        time = next;
    }
    found.join(" ")
}

#[test]
fn runs_are_those_of_robfig() {
    let vectors = include_str!("vectors.txt").lines().filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for line in vectors {
        let parts: Vec<&str> = line.split('|').collect();
        let [spec, zone, start, expected] = parts[..] else { panic!("{line} has four parts") };
        let schedule = Schedule::parse_in(spec, time_zone(zone).expect("is a zone")).expect("is a schedule");
        let named = Schedule::parse(&format!("TZ={zone} {spec}")).expect("is a schedule");
        assert_eq!(runs(&schedule, start, 3), expected, "{spec} in {zone} from {start}");
        assert_eq!(runs(&named, start, 3), expected, "{spec} in {zone} from {start}");
        count += 1;
    }
    assert_eq!(count, 180);
}

#[test]
fn what_is_no_schedule() {
    for (text, why) in [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("* * * * 1 2", "expected exactly 5 fields, found 6: [* * * * 1 2]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("99999999999 * * * *", "end of range (99999999999) above maximum (59): 99999999999"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* * * 13 *", "end of range (13) above maximum (12): 13"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ("5-2 * * * *", "beginning of range (5) beyond end of range (2): 5-2"),
        ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
        ("-1 * * * *", "failed to parse int from : strconv.Atoi: parsing \"\": invalid syntax"),
        (
            "99999999999999999999 * * * *",
            "failed to parse int from 99999999999999999999: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
        ),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("*/-1 * * * *", "negative number (-1) not allowed: -1"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("@every", "unrecognized descriptor: @every"),
        ("@foo", "unrecognized descriptor: @foo"),
        ("@every 1d", "failed to parse duration @every 1d: time: unknown unit \"d\" in duration \"1d\""),
        ("@every 5", "failed to parse duration @every 5: time: missing unit in duration \"5\""),
        ("@every .s", "failed to parse duration @every .s: time: invalid duration \".s\""),
        ("@every ", "failed to parse duration @every : time: invalid duration \"\""),
        ("TZ=Foo/Bar * * * * *", "provided bad location Foo/Bar: unknown time zone Foo/Bar"),
        ("TZ=../x * * * * *", "provided bad location ../x: time: invalid location name"),
        ("TZ=UTC", "invalid schedule format: runtime error: slice bounds out of range [:-1]"),
    ] {
        let found = Schedule::parse(text).map(|_| ()).map_err(|why| why.to_string());
        assert_eq!(found, Err(why.to_owned()), "{text}");
    }
}

#[test]
fn unusual_schedules() {
    for (text, start, expected) in [
        ("*/100 * * * *", "2024-01-01T00:10:00Z", "2024-01-01T01:00:00Z"),
        ("*-5 * * * *", "2024-01-01T00:10:00Z", "2024-01-01T00:11:00Z"),
        ("+1, * * * *", "2024-01-01T00:10:00Z", "2024-01-01T01:01:00Z"),
        (", * * * *", "2024-01-01T00:10:00Z", "never"),
        ("0 ? ? JAN Mon", "2024-01-01T23:10:00Z", "2024-01-08T00:00:00Z"),
        ("50/5 * * * *", "2024-01-01T00:10:00Z", "2024-01-01T00:50:00Z"),
        ("@every -5s", "2024-01-01T00:10:00.7Z", "2024-01-01T00:10:01Z"),
        ("@every 1.5h", "2024-01-01T00:10:00.7Z", "2024-01-01T01:40:00Z"),
        ("@every 100ms", "2024-01-01T00:10:00Z", "2024-01-01T00:10:01Z"),
        ("@every 1m30.9s", "2024-01-01T00:10:00Z", "2024-01-01T00:11:30Z"),
    ] {
        let schedule = Schedule::parse(text).expect("is a schedule");
        assert_eq!(runs(&schedule, start, 1), expected, "{text} from {start}");
    }
}

#[test]
fn a_day_that_a_zone_left_out() {
    let zone = time_zone("Pacific/Apia").expect("is a zone");
    let schedule = Schedule::parse_in("0 12 * * 0", zone).expect("is a schedule");
    assert_eq!(runs(&schedule, "2011-12-29T20:00:00Z", 1), "2011-12-31T22:00:00Z");
}

#[test]
fn time_zones() {
    for (name, expected) in [
        ("", Ok(())),
        ("UTC", Ok(())),
        ("Etc/UTC", Ok(())),
        ("Europe/Amsterdam", Ok(())),
        ("europe/amsterdam", Err("unknown time zone europe/amsterdam")),
        ("Mars/Olympus", Err("unknown time zone Mars/Olympus")),
        ("/etc/passwd", Err("time: invalid location name")),
        ("a/../b", Err("time: invalid location name")),
    ] {
        let found = time_zone(name).map(|_| ()).map_err(|why| why.to_string());
        assert_eq!(found, expected.map_err(str::to_owned), "{name}");
    }
}
