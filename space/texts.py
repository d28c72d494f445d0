"""Every word on the page, in English and in Chinese.

The page's own script shows these. Which language it takes is Gradio's decision, from the visitor's
browser or the settings; the key ``locale`` brings it over.
"""

import gradio as gr

# Keys are shared; `{name}` is filled in by the page.
ENGLISH = {
    "title": "What is where in a picture?",
    "lead": (
        "A fully convolutional network gives every pixel a class. Add a photograph and see how it "
        "divides it up."
    ),
    "paper": "The paper (Long et al., 2015)",
    "tabs": "What to segment",
    "tab_stage": "Picture",
    "tab_batch": "Many pictures",
    "tab_video": "Video",
    "tab_live": "Live camera",
    # choosing a picture
    "drop": "Drop a photograph here",
    "drop_help": "or paste one. The server deletes it within two hours.",
    "choose": "Choose a picture",
    "camera": "Use the camera",
    "examples": "Or try an example",
    "example_cat": "A cat",
    "example_astronaut": "An astronaut",
    "example_pavilion": "A pavilion above a lake (danielbuechele, CC BY 2.0)",
    "capture": "Take the picture",
    "cancel": "Cancel",
    "another": "New picture",
    "picture_area": "Picture",
    "drop_now": "Let go to segment it",
    # while it works
    "uploading": "Uploading the picture …",
    "working": "The network looks at the picture … {seconds} s",
    "waiting": "Others may be ahead of you in the queue … {seconds} s",
    "done": "Done. Classes found: {names}.",
    # errors
    "error_title": "This picture cannot be used",
    "error_busy_title": "That did not work",
    "error_bytes": "The file is too large. Up to {megabytes} MB are accepted.",
    "error_pixels": "The picture has too many pixels. Up to {megapixels} megapixels are accepted.",
    "error_format": (
        "The file is not a picture of a kind that is known here: JPEG, PNG, WebP, GIF, TIFF, BMP, "
        "AVIF, JPEG 2000."
    ),
    "error_damaged": "The file is damaged or incomplete, so it cannot be decoded.",
    "error_upload": "The picture could not be sent. Check the connection, then try again.",
    "error_server": "The server gave no answer; it may be very busy. Try again in a moment.",
    "error_camera": "The camera cannot be used. Allow it in the browser, or choose a file.",
    # the picture and its controls
    "view": "View",
    "view_overlay": "Overlay",
    "view_compare": "Compare",
    "view_confidence": "Confidence",
    "opacity": "Opacity",
    "divider": "Divider between before and after",
    "before": "Before",
    "after": "After",
    "inspect": "Segmented picture. Arrow keys move a crosshair that reads out the class.",
    "read_help": "Point at the picture to read a pixel, click to keep it.",
    "readout": "x {x}, y {y}: {name}, {confidence} sure",
    "unsure": "unsure",
    "sure": "sure",
    # classes
    "classes": "Classes",
    "classes_help": "Point to see one alone, click to hide it.",
    "knows": "This model knows {count} classes.",
    "class": "Class",
    "share": "Share",
    "confidence": "Confidence",
    "show_all": "Show all",
    # downloads
    "downloads": "Download",
    "save_shown": "As shown (PNG)",
    "save_mask": "Mask (PNG)",
    "save_json": "Summary (JSON)",
    "save_coco": "COCO (RLE)",
    "copy_link": "Copy link to these settings",
    "copied": "Copied",
    # model
    "model": "Model",
    "mean_iu": "Mean IU",
    "pixel_accuracy": "Pixel accuracy",
    "parameters": "Parameters",
    "millions": "{count} million",
    "licence": "Licence",
    "card": "Model card",
    "not_measured": "not measured",
    "not_recorded": "not recorded",
    "protocol": "How it was measured",
    "timing": (
        "Network {network} ms on {device}\nDecoding {decode} ms\nAll else on the server {other} ms"
    ),
    "timing_help": "How long an answer takes is shown here.",
    # many pictures
    "batch_title": "Many pictures",
    "batch_drop": "Drop many photographs here",
    "batch_lead": "Up to {most} at once; their masks and a table of class shares come as one ZIP.",
    "batch_choose": "Choose pictures",
    "batch_others": "Other pictures",
    "batch_zip": "Download the ZIP",
    "batch_first": "Every picture appears here as soon as it is done.",
    "batch_sending": "Sent {done} of {total} …",
    "batch_working": "Segmented {done} of {total} …",
    "batch_done": "Done: {done} segmented, {failed} could not be used.",
    "batch_failed": "That did not work. Try again in a moment.",
    "batch_too_many": "Those are too many. Up to {most} are accepted.",
    "batch_none": "None of them could be sent.",
    # a clip
    "video_area": "Video",
    "video_drop": "Drop a short clip here",
    "video_help": (
        "MP4, MOV, WebM, MKV or AVI, up to {megabytes} MB. Its first {seconds} seconds are used."
    ),
    "video_choose": "Choose a clip",
    "video_examples": "Or try an example",
    "video_another": "New clip",
    "video_save": "Download the video",
    "video_result": "The segmented clip",
    "video_progress": "How much of the clip is segmented",
    "video_first": "It comes back with every class in its colour and a legend.",
    "video_sending": "Sending the clip …",
    "video_waiting": "Waiting for the first frame; others may be ahead of you …",
    "video_working": "Segmented {seconds} of {total} seconds …",
    "video_done": "Done: {frames} frames in {seconds} seconds, on {device}.",
    "video_cut": "Done: {frames} frames of the first {seconds} of {whole} seconds, on {device}.",
    "video_failed": "No video was made.",
    "video_classes": "Over all frames of the clip.",
    "video_error_title": "This clip cannot be used",
    "video_error_bytes": "The file is too large. Up to {megabytes} MB are accepted.",
    "video_error_pixels": "Its frames are too large. Up to {megapixels} megapixels are accepted.",
    "video_error_format": (
        "The file is not a video of a kind that is known here: MP4, MOV, WebM, MKV or AVI with "
        "H.264, HEVC, VP8, VP9, AV1 or MPEG-4."
    ),
    "video_error_damaged": "The file is damaged or incomplete: no frame of it can be decoded.",
    # the camera, live
    "live_area": "The camera's picture, segmented",
    "live_title": "Point a camera at something",
    "live_help": (
        "Small pictures go to the server as fast as it answers, and are kept nowhere. The faster "
        "the server, the larger they are."
    ),
    "live_off": (
        "Not on this server: it borrows a GPU for every answer, and a camera would use up your "
        "share of it in a moment. Take a single picture instead."
    ),
    "live_insecure": "Browsers give cameras to pages on https:// and localhost only.",
    "live_start": "Start the camera",
    "live_stop": "Stop",
    "live_idle": "The camera is off.",
    "live_starting": "Every picture is shown with its own classes.",
    "live_rest": "Stopped after two minutes, to leave the server to others. Start it again.",
    "live_speed": "{rate} pictures a second, {width} × {height}",
    "live_classes": "In the newest picture.",
    # interface for programs
    "api": "Use it from a program",
    "api_help": (
        "/segment takes a picture (file or URL) and gives the overlay, a summary and the mask, a "
        "palette PNG whose pixels are class indices. /segment_batch takes many and gives a ZIP of "
        "masks and a table; /segment_video takes a clip and gives a video and a summary."
    ),
    "api_mcp": "For agents these are tools (MCP), at",
    "copy": "Copy",
    # look inside
    "inside_title": "Look inside",
    "inside_lead": (
        "The same picture at every stage of the network: what the backbone reacts to, and how the "
        "prediction sharpens as each skip connection lets finer detail through."
    ),
    "inside_go": "Look inside this picture",
    "inside_first": "Add a picture above first.",
    "inside_working": "Running the decoder five times … {seconds} s",
    "inside_error": "That did not work. Try again in a moment.",
    "stage": "Stage",
    "stride_of": "stride {stride}",
    "backbone": "Backbone, fine to coarse",
    "build_up": "Prediction, coarse to fine",
    "pool1": (
        "After two convolutions a cell sees 6×6 pixels. It reacts to edges, colours and texture, "
        "wherever they are."
    ),
    "pool2": (
        "A cell now sees 16×16 pixels. Corners and small patterns stand out; smooth areas fade."
    ),
    "pool3": (
        "44×44 pixels are in view: parts such as eyes, fur or a wheel's rim begin to count. One "
        "cell now stands for 8×8 pixels."
    ),
    "pool4": "100×100 pixels are in view. What lights up are parts of things, roughly in place.",
    "pool5": (
        "212×212 pixels are in view, enough to tell a cat from a dog. Where its outline runs is "
        "lost: one cell stands for 32×32 pixels."
    ),
    "build32": (
        "Only the coarsest features keep their place. The network knows what is there, and to "
        "within 32 pixels where."
    ),
    "build16": (
        "The first skip, from pool4, lets detail of 16 pixels through. Things get a rough shape, "
        "no longer a mere place."
    ),
    "build8": "With pool3 comes detail of 8 pixels. Large outlines settle where they belong.",
    "build4": (
        "With pool2 comes detail of 4 pixels. Thin parts can separate from what is behind them."
    ),
    "build2": (
        "With pool1 nothing is withheld: this is the network's own answer. The last step, to "
        "stride 1, has no skip and so adds no detail."
    ),
    "build_unused": (
        "This network has no skip from here, so nothing changes any more. What you see is its own "
        "answer."
    ),
    "inside_method": (
        "Heat maps show the mean of all channels at each place, scaled to the stage's own range. "
        "For the build-up the whole network runs every time, trained as it is with all its "
        "skips; what finer stages know is averaged over cells of the stride shown, so that it "
        "tells how much of everything is there and no longer where. Nothing is retrained, so the "
        "coarse answers are what this network can say without detail, not what one trained "
        "without skips would."
    ),
    "heat_alt": "Mean activation of {name} as a heat map",
    "build_alt": "Prediction with detail down to {stride} pixels",
    "matrix_title": "Convolution is a matrix, and so is its transpose",
    "matrix_lead": (
        "Change a number. On the left a 3×3 kernel slides over a 4×4 input; on the right the "
        "same weights, transposed, take 2×2 numbers back up to 4×4. Point at a result to see "
        "where it comes from."
    ),
    "convolution": "Convolution",
    "transposed": "Transposed convolution",
    "input": "Input",
    "kernel": "Kernel",
    "result": "Result",
    "as_matrix": "The same as a matrix",
    "cell": "row {row}, column {column}",
}

CHINESE = {
    "title": "图里哪里是什么？",
    "lead": "全卷积网络为每个像素给出一个类别。放入一张照片，看它如何划分画面。",
    "paper": "论文（Long 等，2015）",
    "tabs": "要分割什么",
    "tab_stage": "图片",
    "tab_batch": "多张图片",
    "tab_video": "视频",
    "tab_live": "实时摄像头",
    "drop": "把照片拖到这里",
    "drop_help": "也可以直接粘贴。服务器会在两小时内将其删除。",
    "choose": "选择图片",
    "camera": "使用摄像头",
    "examples": "或者试试示例",
    "example_cat": "一只猫",
    "example_astronaut": "一位宇航员",
    "example_pavilion": "湖畔楼阁（danielbuechele，CC BY 2.0）",
    "capture": "拍照",
    "cancel": "取消",
    "another": "换一张",
    "picture_area": "图片",
    "drop_now": "松开即可分割",
    "uploading": "正在上传图片……",
    "working": "网络正在处理图片…… {seconds} 秒",
    "waiting": "前面可能有人在排队…… {seconds} 秒",
    "done": "完成。找到的类别：{names}。",
    "error_title": "无法使用这张图片",
    "error_busy_title": "没有成功",
    "error_bytes": "文件太大，最多接受 {megabytes} MB。",
    "error_pixels": "图片像素太多，最多接受 {megapixels} 百万像素。",
    "error_format": (
        "这个文件不是这里认识的图片格式：JPEG、PNG、WebP、GIF、TIFF、BMP、AVIF、JPEG 2000。"
    ),
    "error_damaged": "文件已损坏或不完整，无法解码。",
    "error_upload": "图片发送失败。请检查网络后重试。",
    "error_server": "服务器没有回答，可能正忙。请稍后再试。",
    "error_camera": "无法使用摄像头。请在浏览器中允许，或选择文件。",
    "view": "显示方式",
    "view_overlay": "叠加",
    "view_compare": "前后对比",
    "view_confidence": "置信度",
    "opacity": "不透明度",
    "divider": "前后对比的分界线",
    "before": "之前",
    "after": "之后",
    "inspect": "分割后的图片。用方向键移动十字线，读出所在像素的类别。",
    "read_help": "指向图片可读取像素，点击可保留读数。",
    "readout": "x {x}，y {y}：{name}，置信度 {confidence}",
    "unsure": "不确定",
    "sure": "确定",
    "classes": "类别",
    "classes_help": "指向某一类可单独查看，点击可隐藏。",
    "knows": "这个模型认识 {count} 个类别。",
    "class": "类别",
    "share": "占比",
    "confidence": "置信度",
    "show_all": "全部显示",
    "downloads": "下载",
    "save_shown": "当前画面（PNG）",
    "save_mask": "掩膜（PNG）",
    "save_json": "摘要（JSON）",
    "save_coco": "COCO（RLE）",
    "copy_link": "复制当前设置的链接",
    "copied": "已复制",
    "model": "模型",
    "mean_iu": "平均交并比",
    "pixel_accuracy": "像素准确率",
    "parameters": "参数",
    "millions": "{count} 百万",
    "licence": "许可",
    "card": "模型卡片",
    "not_measured": "尚未测量",
    "not_recorded": "未记录",
    "protocol": "测量方法",
    "timing": (
        "网络 {network} 毫秒（{device}）\n解码 {decode} 毫秒\n服务器上的其他工作 {other} 毫秒"
    ),
    "timing_help": "回答用了多长时间，会显示在这里。",
    "batch_title": "多张图片",
    "batch_drop": "把多张照片拖到这里",
    "batch_lead": "一次最多 {most} 张；掩膜和类别占比表打包为一个 ZIP。",
    "batch_choose": "选择多张图片",
    "batch_others": "换一批",
    "batch_zip": "下载 ZIP",
    "batch_first": "每张图片完成后会立即显示在这里。",
    "batch_sending": "已发送 {done} / {total}……",
    "batch_working": "已分割 {done} / {total}……",
    "batch_done": "完成：已分割 {done} 张，{failed} 张无法使用。",
    "batch_failed": "没有成功。请稍后再试。",
    "batch_too_many": "图片太多，最多接受 {most} 张。",
    "batch_none": "没有一张能够发送。",
    "video_area": "视频",
    "video_drop": "把一段短视频拖到这里",
    "video_help": "MP4、MOV、WebM、MKV 或 AVI，最大 {megabytes} MB。只使用前 {seconds} 秒。",
    "video_choose": "选择视频",
    "video_examples": "或者试试示例",
    "video_another": "换一段",
    "video_save": "下载视频",
    "video_result": "分割后的视频",
    "video_progress": "视频已分割的部分",
    "video_first": "返回的视频中，每个类别都有自己的颜色，并带有图例。",
    "video_sending": "正在上传视频……",
    "video_waiting": "正在等待第一帧，前面可能有人在排队……",
    "video_working": "已分割 {seconds} / {total} 秒……",
    "video_done": "完成：{seconds} 秒，共 {frames} 帧（{device}）。",
    "video_cut": "完成：全长 {whole} 秒中的前 {seconds} 秒，共 {frames} 帧（{device}）。",
    "video_failed": "没有生成视频。",
    "video_classes": "按视频的所有帧计算。",
    "video_error_title": "无法使用这段视频",
    "video_error_bytes": "文件太大，最多接受 {megabytes} MB。",
    "video_error_pixels": "画面太大，最多接受 {megapixels} 百万像素。",
    "video_error_format": (
        "这个文件不是这里认识的视频格式：MP4、MOV、WebM、MKV 或 AVI，"
        "编码为 H.264、HEVC、VP8、VP9、AV1 或 MPEG-4。"
    ),
    "video_error_damaged": "文件已损坏或不完整，没有一帧能够解码。",
    "live_area": "摄像头画面的分割结果",
    "live_title": "用摄像头对准一样东西",
    "live_help": ("小幅画面按服务器回答的速度依次发送，不会保存在任何地方。服务器越快，画面越大。"),
    "live_off": (
        "这台服务器不提供：它的每次回答都要借用一次 GPU，摄像头很快就会用完您的份额。"
        "请改为拍一张照片。"
    ),
    "live_insecure": "浏览器只允许 https:// 和 localhost 的页面使用摄像头。",
    "live_start": "打开摄像头",
    "live_stop": "停止",
    "live_idle": "摄像头已关闭。",
    "live_starting": "每幅画面都与它自己的类别一起显示。",
    "live_rest": "两分钟后已停止，好让别人也能使用服务器。可以再次打开。",
    "live_speed": "每秒 {rate} 幅，{width} × {height}",
    "live_classes": "最新画面中的类别。",
    "api": "在程序中使用",
    "api_help": (
        "/segment 接收一张图片（文件或网址），返回叠加图、摘要和掩膜；"
        "掩膜是调色板 PNG，像素值就是类别编号。/segment_batch 接收多张，返回掩膜的 ZIP 和表格；"
        "/segment_video 接收一段视频，返回视频和摘要。"
    ),
    "api_mcp": "对智能体，这些接口都是工具（MCP）：",
    "copy": "复制",
    "inside_title": "看看内部",
    "inside_lead": (
        "同一张图片在网络的每个阶段：骨干网络对什么有反应，以及每个跳跃连接加入更细的信息后，"
        "预测怎样变得清晰。"
    ),
    "inside_go": "查看这张图片的内部",
    "inside_first": "请先在上方放入图片。",
    "inside_working": "解码器正在运行五次…… {seconds} 秒",
    "inside_error": "没有成功。请稍后再试。",
    "stage": "阶段",
    "stride_of": "步幅 {stride}",
    "backbone": "骨干网络，由细到粗",
    "build_up": "预测，由粗到细",
    "pool1": "经过两次卷积，一格能看到 6×6 像素。它对边缘、颜色和纹理有反应，不管在哪里。",
    "pool2": "一格现在看到 16×16 像素。角点和小图案突出，平滑区域变暗。",
    "pool3": "视野为 44×44 像素：眼睛、毛发或轮圈这样的局部开始起作用。一格现在代表 8×8 像素。",
    "pool4": "视野为 100×100 像素。亮起来的是物体的各个部分，位置大致正确。",
    "pool5": ("视野为 212×212 像素，足以分辨猫和狗。但轮廓在哪里已经丢失：一格代表 32×32 像素。"),
    "build32": "只有最粗的特征保留位置。网络知道有什么，但位置只精确到 32 像素。",
    "build16": "第一个跳跃连接来自 pool4，放入 16 像素的细节。物体有了大致的形状，而不只是位置。",
    "build8": "加上 pool3，细节到 8 像素。大的轮廓落到各自的位置。",
    "build4": "加上 pool2，细节到 4 像素。细小的部分可以与背景分开。",
    "build2": (
        "加上 pool1，不再隐去任何信息：这就是网络自己的答案。"
        "最后一步到步幅 1，没有跳跃连接，因此不再增加细节。"
    ),
    "build_unused": "这个网络从这里起没有跳跃连接，因此不再变化。看到的就是它自己的答案。",
    "inside_method": (
        "热图显示每个位置所有通道的平均值，按该阶段自身的范围缩放。"
        "由粗到细时，每次都运行整个网络（它训练时用了自己的全部跳跃连接）；"
        "更细阶段的特征在所示步幅的格子内取平均，因此只说明有多少，而不再说明在哪里。"
        "没有重新训练，所以粗略的答案是这个网络在缺少细节时能说的，"
        "不等于训练时就没有跳跃连接的网络。"
    ),
    "heat_alt": "{name} 的平均激活热图",
    "build_alt": "细节到 {stride} 像素的预测",
    "matrix_title": "卷积是一个矩阵，转置卷积也是",
    "matrix_lead": (
        "改动一个数字试试。左边，3×3 的卷积核在 4×4 的输入上滑动；右边，同样的权重转置后，"
        "把 2×2 个数字变回 4×4。指向一个结果，看它从哪里来。"
    ),
    "convolution": "卷积",
    "transposed": "转置卷积",
    "input": "输入",
    "kernel": "卷积核",
    "result": "结果",
    "as_matrix": "写成矩阵",
    "cell": "第 {row} 行，第 {column} 列",
}

# Gradio knows Chinese as zh-CN and zh-TW.
I18N = gr.I18n(**{"en": {"locale": "en"}, "zh-CN": {"locale": "zh"}, "zh-TW": {"locale": "zh"}})
LOCALE = I18N("locale")
TEXTS = {"en": ENGLISH, "zh": CHINESE}
