// SPDX-FileCopyrightText: 2026 The dropbp authors
// SPDX-License-Identifier: MIT

// Detects members that a user's class may have. A member is described by a function object that
// calls it; the concepts below then serve every member of every class.
#pragma once

#include <concepts>
#include <utility>

#include "dropbp/base/config.hpp"

DROPBP_NAMESPACE_BEGIN
namespace detail {

// Member{}(object, args...) compiles: the member exists and takes these arguments.
template <class Member, class Object, class... Args>
concept can_call =
    requires(Object& object, Args&&... args) { Member{}(object, std::forward<Args>(args)...); };

template <class Member, class Object, class... Args>
using result_of = decltype(Member{}(std::declval<Object&>(), std::declval<Args>()...));

// The member can be called on a constant object and returns a Result, or what converts to one.
template <class Result, class Member, class Object, class... Args>
concept can_ask = can_call<Member, const Object, Args...> &&
                  std::convertible_to<result_of<Member, const Object, Args...>, Result>;

// The same with exactly this result.
template <class Result, class Member, class Object, class... Args>
concept answers = can_call<Member, const Object, Args...> &&
                  std::same_as<result_of<Member, const Object, Args...>, Result>;

}  // namespace detail
DROPBP_NAMESPACE_END
