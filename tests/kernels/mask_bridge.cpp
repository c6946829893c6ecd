// The kernels of masks as a library; see bridge.h.
#include "edit_mask.cu"
#include "mask_rows.cu"
#include "bridge.h"

CUDACPU_LAUNCH(
  CALL(difference_image)
  CALL(probe_mask)
  CALL(paper_mask)
  CALL(grown_mask)
  CALL(clean_mask)
  CALL(widen_mask)
  CALL(mask_pyramid)
  CALL(mask_rows))
