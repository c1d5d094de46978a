//! The [`value!`](crate::value!) literal macro.

/// Builds a [`Value`](crate::Value) from a JSON-like literal; values may be any expression with `Into<Value>`, keys may
/// be literals or expressions in parentheses.
#[macro_export]
macro_rules! value {
    (null) => { $crate::Value::Null };
    ([ $($tt:tt)* ]) => {{
        #[allow(unused_mut, clippy::vec_init_then_push)]
        let array = { let mut array: ::std::vec::Vec<$crate::Value> = ::std::vec::Vec::new(); $crate::value!(@array array $($tt)*); array };
        $crate::Value::from(array)
    }};
    ({ $($tt:tt)* }) => {{
        #[allow(unused_mut)]
        let map = { let mut map = $crate::Map::new(); $crate::value!(@object map $($tt)*); map };
        $crate::Value::from(map)
    }};
    (@array $a:ident) => {};
    (@array $a:ident null $(, $($rest:tt)*)?) => { $a.push($crate::Value::Null); $( $crate::value!(@array $a $($rest)*); )? };
    (@array $a:ident [ $($i:tt)* ] $(, $($rest:tt)*)?) => { $a.push($crate::value!([ $($i)* ])); $( $crate::value!(@array $a $($rest)*); )? };
    (@array $a:ident { $($i:tt)* } $(, $($rest:tt)*)?) => { $a.push($crate::value!({ $($i)* })); $( $crate::value!(@array $a $($rest)*); )? };
    (@array $a:ident $e:expr $(, $($rest:tt)*)?) => { $a.push($crate::Value::from($e)); $( $crate::value!(@array $a $($rest)*); )? };
    (@object $m:ident) => {};
    (@object $m:ident $k:tt : null $(, $($rest:tt)*)?) => { $m.insert($k, $crate::Value::Null); $( $crate::value!(@object $m $($rest)*); )? };
    (@object $m:ident $k:tt : [ $($i:tt)* ] $(, $($rest:tt)*)?) => { $m.insert($k, $crate::value!([ $($i)* ])); $( $crate::value!(@object $m $($rest)*); )? };
    (@object $m:ident $k:tt : { $($i:tt)* } $(, $($rest:tt)*)?) => { $m.insert($k, $crate::value!({ $($i)* })); $( $crate::value!(@object $m $($rest)*); )? };
    (@object $m:ident $k:tt : $e:expr $(, $($rest:tt)*)?) => { $m.insert($k, $crate::Value::from($e)); $( $crate::value!(@object $m $($rest)*); )? };
    ($e:expr) => { $crate::Value::from($e) };
}
