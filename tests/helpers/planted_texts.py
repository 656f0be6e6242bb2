"""Answers as models write them, by hand: what planted causes are made of. Written before the rules were tried on them."""


def _cells(block: str) -> list[str]:
    return block.strip().replace("\n", "|").split("|")


REFUSALS = _cells("""
I'm afraid the value cannot be read off.|I am not in a position to answer that.
There isn't enough detail here to tell.|It is impossible to determine the exact figure.
Sorry, that is beyond what I can work out.|I don't have enough context to respond.
This question can't be answered from what is shown.|The answer is not given anywhere.|I would rather not guess.
My apologies, but I could not find the answer.|Unable to determine.|The label is too small, so I couldn't tell.
Not enough information.|I really do not know.|It's unclear which one is meant.|I must decline to answer this.
There is no way to know that.|As a language model I'm not able to judge this.
The information is insufficient for a reliable answer.|Regrettably, I have no answer to that.
К сожалению, ответить на этот вопрос я не в состоянии.|Точный ответ дать невозможно.|Мне трудно судить об этом.
Я затрудняюсь с ответом.|Данных для ответа недостаточно.|Не могу сказать наверняка.|Простите, но я этого не знаю.
Определить это не представляется возможным.|Увы, ответа у меня нет.|Этого нельзя понять.
Мне неизвестно, что там находится.|Не удалось установить, какой это предмет.|Сложно определить, о чём идёт речь.
Я вынужден воздержаться от ответа.|Здесь не указано, что это.|Я не располагаю нужными сведениями.|Ответ неясен.
Без понятия.|Я не уверен, поэтому отвечать не стану.|Такой информации нет, извините.
""")

NO_PICTURE = _cells("""
It looks like no image came through.|I can't see any picture in our conversation.
Please upload the chart so that I can help.|There is no photo attached to your message.
You haven't shared an image with me yet.|The picture did not load on my side.
I do not have access to the image you mention.|Without the image I cannot say.|The file you sent appears to be blank.
The attachment seems to be missing.|Could you provide the graph? I have not received it.|I don't see an image here.
Я не вижу никакой картинки.|Изображение не загрузилось.|Вы забыли прикрепить фотографию.
К вашему сообщению не приложено ни одного изображения.|Пожалуйста, пришлите график ещё раз.|Картинка отсутствует.
У меня нет доступа к изображению.|Без фотографии ответить нельзя.
""")

CUT_OFF = _cells("""
The diagram compares the yearly output of several|In order to find the value we first need to look at the
Step 1: identify the colours of|This chart, published by the statistical office, presents
To answer the question, let us consider the vertical axis, which runs|Let me describe what is
Among the categories that the legend lists, there are|First of all, the title says that
Considering the trend over the past decade, one|Well, this bar chart|The picture appears to have been taken during
Here we have a graph whose horizontal axis shows|As the caption explains, these data were collected in|Sure! Let me
The question asks about the difference between|Analyzing the legend: the dark line stands for
Overview of the figure: it consists of|We begin with the left part of|A detailed look at the plot reveals that the
In this visualization the author|На данной фотографии запечатлён момент, когда
Чтобы ответить на вопрос, рассмотрим сначала|В левой части кадра расположены несколько|Перед нами сцена, в которой
Изображение выполнено в тёплых тонах и передаёт|Для начала опишем задний план: там
Если присмотреться внимательнее, то становится|Рассмотрим все варианты по|Судя по освещению, съёмка велась ранним
Данный кадр, вероятно, был сделан во|Вопрос касается того, как расположены|Начнём с того, что в комнате
Обратим внимание на предметы, которые|Композиция построена так, что взгляд|На переднем плане мы можем заметить, как
Здесь представлена сцена из|Прежде всего отметим, что автор|Итак, разберём по шагам, что именно
В кадре присутствуют разнообразные|Фон размыт, однако можно
""")

OTHER = _cells("""
Seven times sharper near the corner|Because of inflation|A mixture of both|It depends on the reader|Some kind of arrow
The axis title|roughly where the line bends|Statistics office|Everything above it|Slightly purple dots
Copyright notice|The small print|a long way down|Nothing special|Fruit and bread|Behind the legend
Somebody's signature|Half of the others|Wide stripes|One after another|какая-то вещь|рядом с окном|из чего попало
просто так|старый механизм|сверху вниз|не тот предмет|обычная погода|что-то блестящее|внутри коробки|кусок проволоки
за углом|чужая рука|пустое место|разные мелочи|край скатерти|тень от забора|сломанный зонт|мокрый асфальт|полотно
""")

# {0} is the reference; each is a sentence around a right answer.
SENTENCES_EN = _cells("""
The answer to this question is {0}.|Looking at the chart, I would say {0}.|It shows {0} as the result.
Based on the legend, this is {0}.|That would be {0}|**{0}** is what the picture shows
According to the graph, {0} comes out on top.|My answer: {0}|{0}, as far as one can tell from the axis
The chart indicates {0} here, which stands out.
""")

SENTENCES_RU = _cells("""
Правильный ответ — {0}.|Судя по картинке, это {0}.|На фотографии видно, что здесь {0}.
Думаю, что подойдёт вариант «{0}»|Ответ: {0}|Скорее всего, {0}, если смотреть внимательно.
Здесь изображено следующее: {0}.|По подписи можно понять, что это {0}.|Я бы сказал, что {0}
В центре кадра находится {0}, рядом стена.
""")

# From here: reference|answer.
LANGUAGE = _cells("""
да|Yes|нет|No|да|yes, it is|нет|No, there is not|красный|red|кошка|a cat|слева|on the left|дерево|wood|женщина|woman
снег|snow|собака|The dog|на столе|on the table|металл|metal|зелёный|green|автобус|bus|стакан|glass|велосипед|bicycle
небо|sky|трава|grass|поезд|train|Yes|Да|No|Нет|yes|да, верно|no|нет, не так|Germany|Германия|Blue|синий|Coffee|кофе
Brazil|Бразилия|Winter|зима|Women|женщины|Asia|Азия|Cars|автомобили|Green|Зелёный цвет|Sales|продажи|Rice|рис|Tea|Чай
Income|доход|Spring|весна|Japan|Япония|Milk|молоко
""")

WRITING = _cells("""
Germany|GERMANY!|New York|new york.|Light blue|light-blue|Yes|YES.|No|"no"|The Netherlands|Netherlands|Coffee|Coffee;
South Korea|South  Korea.|Very likely|very likely!|Men|«Men»|Not sure|(not sure)|Rural area|the rural area
Baby boomers|Baby-Boomers|Facebook|facebook.|Total|*total*|Red|Red.|Approve|“Approve”|Hong Kong|Hong-Kong|Other
other...|Favorable|Favorable:|чёрный|черный.|зелёный|зеленый|да|Да!|нет|«Нет».|мужчина|Мужчина.|светло-серый
светло серый|жёлтый|желтый|самолёт|Самолет|на улице|На улице.|женщина|ЖЕНЩИНА|дорожный знак|дорожный знак!|справа
«справа»|небо|Небо...|тёмно-синий|темно-синий.|ребёнок|ребенок|медведь|Медведь)|кошка|"Кошка"|тарелка|Тарелка;|счётчик
счетчик|ёлка|елка
""")

NUMBER_FORMS = _cells("""
62%|62|1000|1,000|70|70 kg|5|$5|0.5|0,5|12500|12 500|3|three|45|45 percent|8.5|8,5%|2300000|2.3 million|1500|1.5k|120
120 people|16|16 %|75|€75|1234567|1,234,567|7|seven|0.25|25%|350|350 units|4200|4'200|18|18 years|90|90°|12|12 млн
3000|3 тыс.|62|62 процента|1000|1 000|5|5 руб.|15|15 кг|0,7|0.7|2500|2 500 рублей|4|четыре|40|40 %|1,5 млн|1500000|250
250 человек|8|8 штук|1 200,5|1200.5|30|30 см|6|шесть|99|99₽|10000|10 тыс. руб.|3,14|3.14|12|12 шт.|1.000.000|1000000
45|45 лет
""")

WORD_FORMS = _cells("""
bar|bars|car|the cars|holding|holds|tree|trees|walking|walk|blue chairs|blue chair|buildings|building|on the table
table|computers|computer|in the kitchen|the kitchen|horses|horse|cups|cup|a red shirt|red shirts|in winter|winter
windows|window|flowers|the flower|trucks|truck|at the beach|beach|shelves and tables|shelves and table|signs|sign
из пластика|пластик|ткань|из ткани|женщины|женщина|океан|в океане|диван|на диване|коза|козы|большим|большой
дорожный знак|на дорожном знаке|мальчик|мальчики|круглый|круглая|коричневый|коричневого|яблоки|яблоко|на полке|полка
зелёный|зелёная|гора|гору|белый|белая|деревянный стол|деревянного стола|в сумке|сумка|тарелки|тарелка|бумага|из бумаги
""")

LOOPS = (
    "the bar is the bar is the bar is the bar is the bar is",
    "yes yes yes yes yes yes",
    "10, 10, 10, 10, 10, 10, 10",
    "Red. Red. Red. Red. Red.",
    "A B A B A B A B A B",
    "It is on the left side. It is on the left side. It is on the left side. It is on the left side.",
    "hahahahahahahaha",
    "The chart shows that sales grew and sales grew and sales grew and sales grew and sales grew",
    "up and down, up and down, up and down, up and down",
    "zzzzzzzzzzzzzzz",
    "blue, green, blue, green, blue, green, blue, green, blue",
    "I think that the answer is I think that the answer is I think that the answer is I think that the answer",
    "2015 2016 2015 2016 2015 2016 2015 2016",
    "<s><s><s><s><s><s><s><s>",
    "no\nno\nno\nno\nno",
    "bar bar bar bar bar chart",
    "Well, to see this: one two three four five one two three four five one two three four five one two three four five",
    "lalalalalala lalalalalala",
    "and the and the and the and the and the",
    "Kiwi is the largest of the bars. Kiwi is the largest of the bars. Kiwi is the largest of the bars. Kiwi is the largest.",
    "да да да да да",
    "на столе стоит на столе стоит на столе стоит на столе стоит",
    "Красный, красный, красный, красный, красный",
    "это это это это это это",
    "ооооооооооооооо",
    "ля-ля-ля-ля-ля-ля-ля",
    "На картинке кошка. На картинке кошка. На картинке кошка. На картинке кошка.",
    "нет, нет, нет, нет, нет, нет",
    "слева и справа и слева и справа и слева и справа и слева и справа",
    "Ответ: Ответ: Ответ: Ответ: Ответ:",
    "белый белый белый белый",
    "мужчина держит мяч мужчина держит мяч мужчина держит мяч мужчина держит мяч",
    "раз два три четыре раз два три четыре раз два три четыре раз два три четыре",
    "5 5 5 5 5 5 5 5",
    "дом у дома у дома у дома у дома у дома",
    "что что что что",
    "стол стол стол стол стол стул",
    "человек в шляпе, человек в шляпе, человек в шляпе, человек в шляпе",
    "ахахахахахахаха",
    "Я думаю, что это дерево. Я думаю, что это дерево. Я думаю, что это дерево. Я думаю, что это дерево.",
)

# Written after the rules, to see what they miss; they were mended once by what these showed.
MORE_REFUSALS = _cells("""
I have no means of knowing the number.|That detail is not legible.|The resolution is too low to read it.
I'd need a clearer version to answer.|It isn't possible to say.|Cannot determine|I'm unable to read the label.
No clear answer can be given.|The question is ambiguous, so I cannot respond.|Not determinable
I apologize, but I can't assist with that.|Hard to say.|The text doesn't say.|I'm not certain about it.
There is insufficient data.|Unknown.|Sorry, I don't understand the question.|I have no idea
It's not possible to identify the person.|I won't answer that.|Я не смог разобрать надпись.|Не представляю.
Ответ установить нельзя.|Не определено.|Извините, но я не понимаю вопроса.|Трудно сказать.
Недостаточно информации для ответа.|Я не уверен.|Этот вопрос мне непонятен.|К сожалению, здесь ничего не разобрать.
Невозможно определить по данным.|Не имею представления.|Мне сложно ответить.|Нет ответа.|Это неизвестно.
Я не могу дать ответ.|Затрудняюсь ответить|Надпись не читается.|Не знаю.|Увы, не получится.
I lack the information needed for that.|The caption leaves this open.|Nobody could tell from this.|There's no telling.
I am not able to make it out.|I do not possess that knowledge.|The answer cannot be inferred.|It cannot be told apart.
I'm not qualified to answer.|Not visible.|I refuse to guess.|The number is illegible.|Information not available
Unsure.|Indeterminate.|Я не понял, о чём вопрос.|Не разобрать.|Определить нельзя.|Мне не хватает данных.
Я воздержусь от ответа.|Я не способен это определить.|Прошу прощения, ответа нет.|Не указано.|Сказать трудно.
Это невозможно узнать.|Ничего не понятно.|Я пас.|Сведений об этом нет.|Не нахожу ответа.|Не вижу, что там написано.
""")

MORE_NO_PICTURE = _cells("""
I cannot view images.|No picture was provided with the question.|It seems the image is missing.
Please attach the image you want me to look at.|I'm sorry, but there's no image in this chat.
The image could not be loaded.|I don't have the ability to see pictures.|You did not upload a chart.
Unable to open the attachment.|There was no graph included.|Я не могу видеть изображения.
Изображение не предоставлено.|Прикрепите, пожалуйста, картинку.|Фото не открывается.
В вашем сообщении нет изображения.|График не был загружен.|К сожалению, я не получил фотографию.|Здесь нет картинки.
Файл пуст.|Снимок не прикреплён.
""")

NO_REFUSALS = _cells("""
The man is not wearing a hat|On the picture there is no cat|На изображении нет кошки
The image shows a man without shoes|red and blue|нет|No|Not applicable people|картина|Two images on the wall
Стол без скатерти|The chart does not include 2012|a white picture frame|The blue file cabinet|Изображение природы
фотография на стене|в центре фотографии|в левой части фотографии|сидит без куртки|Not very important|Never
Empty street|неизвестный мужчина|The graph of sales is flat|no smoking sign|No|Yes|not red|no hat|два
The dog is not brown|нет, слева|не стол|without sugar|More than half|the more expensive one|too large|hard hat
sea view|Видимо, стол|не синий, а красный|No, it is lower|Nobody|нет, мужчина|можно|reading a book|The answer is blue
Ответ: стол|можжевельник|a clear sky|data center|answer sheet|readers|No party|tell a friend|Не замужем|Not married
без шапки|видеокамера|судно|сила|берег|берёза|судья|имеет рога|stated|More often|never married|state|способ
the sign says stop|See the sea|Да, видно дерево|Я вижу стол|В данный момент солнечно|I can see a cat
""")
