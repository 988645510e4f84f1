// Memory of requests of many small messages, and of their replies.
#pragma once

#include "google/protobuf/arena.h"

namespace varve::base {

// Few pieces for a thousand items, and one small one for a single item.
inline google::protobuf::ArenaOptions MessageArena() {
  google::protobuf::ArenaOptions options;
  options.start_block_size = 1 << 10;
  options.max_block_size = 64 << 10;
  return options;
}

}  // namespace varve::base
