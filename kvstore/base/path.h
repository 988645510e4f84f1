// Paths as people write them.
#pragma once

#include <string>
#include <string_view>

namespace varve::base {

// The path without what says nothing: /a//b/./c/ is /a/b/c. ".." stays: behind a symbolic link it
// leads to another place than the words say.
std::string PlainPath(std::string_view path);

}  // namespace varve::base
