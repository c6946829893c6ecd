// The kernels on rows as a library; see bridge.h.
#include "activate_rows.cu"
#include "attention_rows.cu"
#include "conv_rows.cu"
#include "cross_attention_rows.cu"
#include "gather_rows.cu"
#include "group_norm_statistics.cu"
#include "quantise_rows.cu"
#include "bridge.h"

#define CALL_CONV(name, ...) CALL(conv_rows_##name)
#define CALL_ATTENTION(D, WARPS) CALL(attention_rows_##D##_##WARPS)

CUDACPU_LAUNCH(
  CONV_ROWS_TILES(CALL_CONV)
  ATTENTION_ROWS_ENTRIES(CALL_ATTENTION)
  CALL(activate_rows)
  CALL(cross_attention_rows)
  CALL(gather_rows)
  CALL(gather_rows_int8)
  CALL(gather_rows_fp8)
  CALL(group_norm_statistics)
  CALL(quantise_rows_int8)
  CALL(quantise_rows_fp8))
